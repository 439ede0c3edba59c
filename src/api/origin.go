package api

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// withoutForeignCookies takes the cookies from what a page of another origin has a browser ask: SameSite keeps them from other sites,
// but another port of this host is the same site. Credentials that the page itself knows are in headers, and stay.
func withoutForeignCookies(r *http.Request) *http.Request {
	if r.Header.Get("Cookie") == "" || !foreign(r) {
		return r
	}
	r = r.Clone(r.Context())
	r.Header.Del("Cookie")
	return r
}

// foreign tells whether a browser sent this for a page of another origin. To follow a link from there is not meant by that.
func foreign(r *http.Request) bool {
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "same-origin", "none":
		return false
	case "same-site", "cross-site":
		return r.Header.Get("Origin") != "" || r.Method != http.MethodGet && r.Method != http.MethodHead
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	// X-Forwarded-Host is what a proxy saw as the host; a page cannot forge it.
	return err != nil || u.Host == "" || !strings.EqualFold(u.Host, r.Host) && !strings.EqualFold(u.Host, r.Header.Get("X-Forwarded-Host"))
}

// stranger refuses a page of another origin that a browser on this host shows, when nobody is asked for credentials: it is not this host that
// listening on loopback is meant for. Pages that are served on this host, too, are.
func stranger(auth Authenticator, r *http.Request) error {
	if !auth.Open() || !foreign(r) {
		return nil
	}
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !addr.Addr().Unmap().IsLoopback() {
		return nil
	}
	if u, err := url.Parse(r.Header.Get("Origin")); err == nil {
		ip, err := netip.ParseAddr(u.Hostname())
		if err == nil && ip.IsLoopback() || strings.EqualFold(u.Hostname(), "localhost") {
			return nil
		}
	}
	return failf(http.StatusForbidden, "without authentication pages of other hosts are not answered")
}

// local refuses what does not come from this host when nobody is asked for credentials: what could be done with it is too much for
// everybody, and for any page that a browser on this host shows.
func (s *Server) local(r *http.Request) error {
	if !s.Auth.Open() {
		return nil
	}
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !addr.Addr().Unmap().IsLoopback() {
		return failf(http.StatusForbidden, "without authentication only this host may do that: see %s.auth.api.backend", s.Service)
	}
	name := r.Host
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	// The name of a page may resolve to this host.
	_, err = netip.ParseAddr(strings.Trim(name, "[]"))
	if site := r.Header.Get("Sec-Fetch-Site"); foreign(r) || strings.HasSuffix(site, "-site") || err != nil && !strings.EqualFold(name, "localhost") {
		return failf(http.StatusForbidden, "without authentication pages of other origins may not do that")
	}
	return nil
}
