package ws

import (
	"net/url"
	"slices"
	"time"
)

// Peer is who is at the other end of a connection. It never changes.
type Peer struct {
	// HostID and ServiceType: of a client its X-Host-ID (its ip:port when it gave
	// none) and X-Client-Type, of a server its X-Host-ID and X-Service-Type.
	HostID, ServiceType string
	Protocol            string   // "", "json" or "protobuf"; "" means json
	Namespaces          []string // what the client wants to receive; ["*"] when it did not say
	// As the client sent them, not validated.
	GremlinFilter, UpdatePolicy, PersistencePolicy string
	User                                           string // from Authenticate; "" on the client side
	Addr                                           string // the remote TCP end; on the client side what was dialled
	Port                                           int
	ConnectTime                                    time.Time
	Path                                           string
	URL                                            *url.URL // of the upgrade request; its query may hold a token
}

// Wants reports whether the peer asked for messages of this namespace.
func (p Peer) Wants(namespace string) bool {
	return slices.Contains(p.Namespaces, "*") || slices.Contains(p.Namespaces, namespace)
}

// Binary reports whether messages go out as binary frames.
func (p Peer) Binary() bool { return p.Protocol == "protobuf" }

// Origin is what graph elements published by this peer carry as their origin.
func (p Peer) Origin() string { return p.ServiceType + "." + p.HostID }

// State of a client's connection.
type State string

// The states a connection can be in.
const (
	Connecting State = "connecting"
	Connected  State = "connected"
	Failed     State = "failed" // the last attempt failed or the connection was lost; the next attempt follows
)

// ConnStatus describes a connection in /api/status.
type ConnStatus struct {
	ServiceType       string // of the client, also in the status of the client itself
	ClientProtocol    string
	Addr              string
	Port              int
	IsConnected       bool
	ConnectTime       time.Time
	RemoteHost        string `json:",omitempty"`
	RemoteServiceType string `json:",omitempty"`

	State  State     `json:",omitempty"`
	Reason string    `json:",omitempty"` // why it failed
	Since  time.Time `json:",omitzero"`  // when State was entered
}
