package doctor

import (
	"context"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"strings"

	"skydive/src/ws"
)

// errSeen ends a connection that has shown what it had to.
var errSeen = errors.New("seen")

// websocket connects as the service does, proxies of the environment included, but does not say what kind of client it is: the upgrade
// succeeds, and no session begins.
func (v *visit) websocket(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, v.Timeout)
	defer cancel()
	dial := ws.DialOptions{
		Addr: v.report.Address, Path: v.path(), HostID: v.HostID,
		Username: v.Username, Password: v.Password, Cookies: v.Cookies,
	}
	if v.Options.tls() != nil {
		dial.TLS = v.Certificates.Client
	}
	conn, err := ws.Dial(ctx, dial)
	if err == nil {
		peer := conn.Peer()
		_ = conn.Run(ctx, func(*ws.Conn) (ws.Session, error) { return nil, errSeen })
		return v.ok("websocket", fmt.Sprintf("%s %s takes the connection", peer.ServiceType, peer.HostID), "")
	}
	proxy := v.proxy()
	var refused *ws.DialError
	switch {
	case errors.Is(err, ws.ErrNotSkydive):
		return v.failed("websocket", err.Error(), noService)
	case errors.As(err, &refused) && refused.Status == http.StatusConflict:
		if from := v.ownConnection(refused.Text); from != "" {
			return v.ok("websocket", fmt.Sprintf("the %s of this host is connected already, %s", v.Service, from), "")
		}
		return v.failed("websocket", refused.Text, "two hosts have the same host_id '"+v.HostID+"': set another one on one of them")
	case proxy != "":
		return v.failed("websocket", err.Error(), "connections go through the proxy "+proxy+" of the environment, which may not pass WebSockets: NO_PROXY="+v.host+" goes without")
	}
	return v.failed("websocket", err.Error(), "all before this step went well: something in between may not pass WebSockets, such as a proxy that lacks the headers Upgrade and Connection")
}

var endpoint = regexp.MustCompile(`from (\[[^]]+\]|[0-9.]+):[0-9]+`)

// ownConnection returns "from ADDRESS" if the connection that a refusal speaks of comes from here.
func (v *visit) ownConnection(text string) string {
	m := endpoint.FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	if addr, err := netip.ParseAddr(strings.Trim(m[1], "[]")); err != nil || addr.Unmap() != v.from {
		return ""
	}
	return m[0]
}

func (v *visit) proxy() string {
	scheme := "http"
	if v.Options.tls() != nil {
		scheme = "https"
	}
	r, err := http.NewRequest(http.MethodGet, scheme+"://"+v.report.Address+v.path(), nil)
	if err != nil {
		return ""
	}
	url, err := v.Proxy(r)
	if err != nil || url == nil {
		return ""
	}
	return url.Redacted()
}

// authorityName reads the name of an authority as it is on the wire.
func authorityName(raw []byte) string {
	var rdn pkix.RDNSequence
	if _, err := asn1.Unmarshal(raw, &rdn); err != nil {
		return "?"
	}
	return rdn.String()
}
