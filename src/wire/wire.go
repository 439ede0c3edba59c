// Package wire holds the messages that agents, analyzers, publishers and subscribers exchange over WebSocket: the envelope in
// JSON and in protobuf, the typed bodies of the Graph namespace, and what such a message does to a graph (Merger).
//
// It does no I/O of its own: it reads from an io.Reader and appends to, or streams into, what it is given.
package wire

import (
	"errors"
	"fmt"
	"strings"

	"skydive/src/field"
	"skydive/src/graph"
)

// Protocol is how a peer writes envelopes, as the X-Client-Protocol header names it.
type Protocol string

const (
	JSON     Protocol = "json"
	Protobuf Protocol = "protobuf"
)

// ParseProtocol reads an X-Client-Protocol header; an absent one means JSON.
func ParseProtocol(s string) (Protocol, error) {
	switch Protocol(s) {
	case "", JSON:
		return JSON, nil
	case Protobuf:
		return Protobuf, nil
	}
	return "", fmt.Errorf("unknown client protocol %q", s)
}

// Namespaces of messages. Peers compare them exactly.
const (
	NamespaceGraph           = "Graph"
	NamespaceFlow            = "Flow"
	NamespaceCapture         = "OnDemandCapture"
	NamespaceInjection       = "OnDemandPacketInjection"
	NamespaceCaptureNotice   = "OnDemandCaptureNotification"
	NamespaceInjectionNotice = "OnDemandPacketInjectionNotification"
	NamespaceAlert           = "Alert"
)

// Types of the Graph namespace.
const (
	TypeSyncRequest          = "SyncRequest"
	TypeSyncReply            = "SyncReply"
	TypeSync                 = "Sync"
	TypeNodeAdded            = "NodeAdded"
	TypeNodeUpdated          = "NodeUpdated"
	TypeNodeDeleted          = "NodeDeleted"
	TypeNodePartiallyUpdated = "NodePartiallyUpdated"
	TypeEdgeAdded            = "EdgeAdded"
	TypeEdgeUpdated          = "EdgeUpdated"
	TypeEdgeDeleted          = "EdgeDeleted"
	TypeEdgePartiallyUpdated = "EdgePartiallyUpdated"
)

// Types of the Flow and on-demand namespaces.
const (
	TypeTableQuery  = "TableQuery"
	TypeTableResult = "TableResult"
	TypeStart       = "Start"
	TypeStartReply  = "StartReply"
	TypeStop        = "Stop"
	TypeStopReply   = "StopReply"
)

// Format is the encoding of Obj inside a protobuf envelope. A JSON envelope always holds JSON.
type Format int64

const (
	FormatJSON     Format = 0
	FormatProtobuf Format = 1
)

// Reasons for which a message is refused as a whole.
var (
	ErrNoObj  = errors.New("message without Obj")
	ErrFormat = errors.New("unknown format of Obj")
)

// Message is one envelope. The content is in Body when this package knows its type (see Decoder.Decode), else in Obj.
type Message struct {
	Namespace string
	Type      string
	UUID      string // ties a reply to its request; may be empty
	Status    int64  // HTTP-like; 0 is left out
	Format    Format // of Obj
	Obj       []byte // JSON text, or a protobuf message
	Body      Body
}

// Body is the typed content of a message: *graph.Node, *graph.Edge, *Sync, *SyncRequest, *PartialUpdate or Text.
type Body interface{ AppendJSON(dst []byte) []byte }

// Sync is a graph, or the part of one that its sender owns. On the wire an empty list is null.
type Sync struct {
	Nodes []*graph.Node
	Edges []*graph.Edge
}

// SyncRequest asks for a graph. A nil GremlinFilter keeps the filter of the subscriber, "" resets it. Time 0 means now.
type SyncRequest struct {
	GremlinFilter *string
	Time          graph.Time
}

// PartialUpdate changes some metadata keys of one element.
type PartialUpdate struct {
	ID        string
	UpdatedAt graph.Time
	Revision  int64
	Ops       []field.Op
}

// Text is what an answer says instead of a graph when it reports an error.
type Text string

// Reply answers m: same namespace and UUID.
func (m *Message) Reply(typ string, status int64, body Body) *Message {
	return &Message{Namespace: m.Namespace, Type: typ, UUID: m.UUID, Status: status, Body: body}
}

// Event is the message that tells of one change. With partial set an update is told as what changed: its operations are computed
// from the two states, so they are right whoever made the change and however.
func Event(ch graph.Change, partial bool) *Message {
	m := &Message{Namespace: NamespaceGraph, Type: ch.Kind.String(), UUID: graph.NewID(), Status: 200}
	switch {
	case partial && ch.Kind == graph.NodeUpdated && nameable(&ch.OldNode.Element, &ch.Node.Element):
		m.Type, m.Body = TypeNodePartiallyUpdated, difference(&ch.OldNode.Element, &ch.Node.Element)
	case partial && ch.Kind == graph.EdgeUpdated && nameable(&ch.OldEdge.Element, &ch.Edge.Element):
		m.Type, m.Body = TypeEdgePartiallyUpdated, difference(&ch.OldEdge.Element, &ch.Edge.Element)
	case ch.Node != nil:
		m.Body = ch.Node
	default:
		m.Body = ch.Edge
	}
	return m
}

// nameable tells whether dotted paths can name all that may differ: a metadata key with a dot of its own would be taken for a path.
func nameable(elements ...*graph.Element) bool {
	for _, e := range elements {
		for _, entry := range e.Metadata {
			if strings.Contains(entry.Key, ".") {
				return false
			}
		}
	}
	return true
}

func difference(old, new *graph.Element) *PartialUpdate {
	return &PartialUpdate{ID: new.ID, UpdatedAt: new.UpdatedAt, Revision: new.Revision, Ops: field.Diff(old.Metadata, new.Metadata)}
}
