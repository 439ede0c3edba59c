package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// visit is the way to one address.
type visit struct {
	Options
	host, port string
	report     Report
	at         netip.AddrPort // what took the connection
	from       netip.Addr     // of this host
	shown      *shown         // what happened in the last handshake
	date       time.Duration  // how far the clock there is ahead
	dated      bool
}

func systemLookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// visit takes the steps in turn; after one that failed those that need it are left out.
func (o Options) visit(ctx context.Context, address string) Report {
	v := &visit{Options: o, report: Report{Address: address}}
	var err error
	if v.host, v.port, err = net.SplitHostPort(address); err != nil {
		v.failed("dns", "the address is not host:port", "")
		return v.report
	}
	steps := []struct {
		name string
		take func(context.Context) bool // false: no later step makes sense
	}{{"dns", nil}, {"tcp", nil}, {"tls", v.tls}, {"auth", v.auth}, {"version", v.version}, {"clock", v.clock}, {"websocket", v.websocket}}
	addrs, ok := v.dns(ctx)
	if ok {
		ok = v.tcp(ctx, addrs)
	}
	for _, s := range steps {
		switch {
		case v.has(s.name):
		case !ok:
			v.skipped(s.name, "an earlier step failed")
		default:
			ok = s.take(ctx)
		}
	}
	return v.report
}

func (v *visit) has(name string) bool {
	for _, c := range v.report.Checks {
		if c.Name == name {
			return true
		}
	}
	return false
}

func (v *visit) add(name string, state State, result, advice string) bool {
	v.report.Checks = append(v.report.Checks, Check{name, state, result, advice})
	return state != Failed
}
func (v *visit) ok(name, result, advice string) bool     { return v.add(name, OK, result, advice) }
func (v *visit) failed(name, result, advice string) bool { return v.add(name, Failed, result, advice) }
func (v *visit) skipped(name, result string) bool        { return v.add(name, Skipped, result, "") }

func (v *visit) dns(ctx context.Context) ([]netip.Addr, bool) {
	if addr, err := netip.ParseAddr(v.host); err == nil {
		return []netip.Addr{addr}, v.skipped("dns", "it is an address")
	}
	ctx, cancel := context.WithTimeout(ctx, v.Timeout)
	defer cancel()
	addrs, err := v.Lookup(ctx, v.host)
	if err == nil && len(addrs) > 0 {
		var list []string
		for i, a := range addrs {
			addrs[i] = a.Unmap()
			list = append(list, addrs[i].String())
		}
		return addrs, v.ok("dns", v.host+" is "+strings.Join(list, ", "), "")
	}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return nil, v.failed("dns", "there is no host "+v.host, "correct the name in the configuration (analyzers), or add it to the DNS or to /etc/hosts; getent hosts "+v.host+" asks the same")
	case errors.As(err, &dns) && dns.IsTimeout || errors.Is(err, context.DeadlineExceeded):
		return nil, v.failed("dns", fmt.Sprintf("no name server answered for %s within %s", v.host, v.Timeout), "see the name servers in /etc/resolv.conf and whether this host reaches them; an address instead of the name does without")
	case err == nil:
		return nil, v.failed("dns", v.host+" has no address", "add one to the DNS or to /etc/hosts")
	}
	return nil, v.failed("dns", err.Error(), "see /etc/resolv.conf; getent hosts "+v.host+" asks the same")
}

func (v *visit) tcp(ctx context.Context, addrs []netip.Addr) bool {
	var silent []string
	var last error
	for _, a := range addrs {
		start := time.Now()
		target := net.JoinHostPort(a.String(), v.port)
		conn, err := (&net.Dialer{Timeout: v.Timeout}).DialContext(ctx, "tcp", target)
		if err != nil {
			last = err
			silent = append(silent, a.String())
			continue
		}
		defer conn.Close()
		v.at, _ = netip.ParseAddrPort(conn.RemoteAddr().String())
		if local, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
			v.from = local.Addr().Unmap()
		}
		advice := ""
		if len(silent) > 0 {
			advice = "nobody answers at " + strings.Join(silent, ", ") + ", to which " + v.host + " resolves too"
		}
		return v.ok("tcp", fmt.Sprintf("%s answers within %s", target, max(time.Since(start).Round(time.Millisecond), time.Millisecond)), advice)
	}
	var timeout net.Error
	at := strings.Join(silent, ", ")
	switch {
	case errors.Is(last, syscall.ECONNREFUSED):
		return v.failed("tcp", fmt.Sprintf("%s refuses connections to port %s", at, v.port),
			"is the analyzer running there, and does it listen on an address that others reach (analyzer.listen: 0.0.0.0:"+v.port+"), not on 127.0.0.1? A firewall may refuse, too")
	case errors.As(last, &timeout) && timeout.Timeout():
		return v.failed("tcp", fmt.Sprintf("%s does not answer on port %s within %s", at, v.port, v.Timeout), "the host is down, or a firewall on the way drops the packets: open TCP port "+v.port)
	case errors.Is(last, syscall.EHOSTUNREACH), errors.Is(last, syscall.ENETUNREACH):
		return v.failed("tcp", "there is no way to "+at, "ip route get "+addrs[0].String()+" shows which way this host would take; the host there may be down")
	}
	return v.failed("tcp", last.Error(), "")
}

// answer is what came back, with the beginning of its body.
type answer struct {
	*http.Response
	text string
}

// maxText is how much of a body is read.
const maxText = 4 << 10

// open is asked without credentials: nobody needs any there.
const open = "/healthz"

// ask sends one request on a connection of its own, straight to the host that answered before.
func (v *visit) ask(ctx context.Context, path string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, v.Timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", v.at.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	scheme := "http"
	if config := v.Options.tls(); config != nil {
		scheme = "https"
		v.shown = &shown{}
		secure := tls.Client(conn, v.shown.watch(config, v.host))
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, err
		}
		v.shown.state = secure.ConnectionState()
		conn = secure
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+net.JoinHostPort(v.host, v.port)+path, nil)
	if err != nil {
		return nil, err
	}
	r.Close = true
	r.Header.Set("X-Host-ID", v.HostID)
	if path != open {
		if v.Username != "" {
			r.SetBasicAuth(v.Username, v.Password)
		}
		for _, c := range v.Cookies {
			r.AddCookie(c)
		}
	}
	sent := time.Now()
	writeErr := r.Write(conn) // the answer may tell why it failed: a refused certificate does not show before
	resp, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		if writeErr != nil && errors.Is(err, io.ErrUnexpectedEOF) {
			err = writeErr
		}
		return nil, err
	}
	defer resp.Body.Close()
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil && !v.dated {
		// The date has no fractions: half a second is the best guess. It was written somewhere on the way there and back.
		v.date, v.dated = date.Add(500*time.Millisecond).Sub(v.Clock().Add(-time.Since(sent)/2)), true
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxText))
	return &answer{resp, strings.ToValidUTF8(strings.TrimSpace(string(text)), "?")}, nil
}

// line is the status and the first line of the body.
func (a *answer) line() string {
	first, _, _ := strings.Cut(a.text, "\n")
	if len(first) > 200 || strings.HasPrefix(first, "<") {
		first = ""
	}
	return strings.TrimSuffix(a.Status+": "+first, ": ")
}

// auth asks for what the service connects to, without the headers of an upgrade: those are looked at last, so that 400 or 426 means
// that the credentials are good for it.
func (v *visit) auth(ctx context.Context) bool {
	path := v.path()
	a, err := v.ask(ctx, path)
	if err != nil {
		return v.failed("auth", "no answer: "+err.Error(), noService)
	}
	who := "user '" + v.Username + "'"
	key := v.Service + ".auth.cluster"
	if v.Username == "" {
		who = "nobody in particular (" + key + ".username is not set)"
	}
	switch a.StatusCode {
	case http.StatusUpgradeRequired, http.StatusBadRequest:
		return v.ok("auth", who+" may use "+path, "")
	case http.StatusUnauthorized:
		if v.Username == "" {
			return v.failed("auth", a.line(), "the analyzer wants credentials: set "+key+".username and "+key+".password here")
		}
		return v.failed("auth", who+" is refused: "+a.line(), "compare "+key+".username and "+key+".password here with the section of auth that analyzer.auth.cluster.backend names there")
	case http.StatusForbidden, http.StatusMethodNotAllowed:
		return v.failed("auth", who+" is refused: "+a.line(), v.forbidden(a.text))
	case http.StatusTooManyRequests:
		return v.failed("auth", a.line(), "too many wrong passwords came from this address: correct "+key+".password of every service behind it, and wait a minute")
	case http.StatusNotFound:
		return v.failed("auth", a.line(), "there is no "+path+": this is not an analyzer; agents listen on 8081, analyzers on 8082")
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout, http.StatusInternalServerError, http.StatusNotImplemented:
		return v.failed("auth", a.line(), "the analyzer, or what it needs, is not well: see its log, its /readyz and skydive client status")
	}
	return v.failed("auth", path+" answers "+a.line(), noService)
}

const noService = "something else than Skydive, or something in between, answers there: see who listens with ss -tlnp on that host"

func (v *visit) forbidden(text string) string {
	if strings.Contains(strings.ToLower(text), "certificate") {
		if v.shown == nil || !v.shown.offered {
			return "set tls.client_cert and tls.client_key here"
		}
		return "the certificate of tls.client_cert must be signed by an authority of tls.ca_cert there"
	}
	return "the user may not: skydive client rbac check USER websocket " + v.path() + " tells why"
}

// version asks who is there. Those who may connect need not be users of the API.
func (v *visit) version(ctx context.Context) bool {
	a, err := v.ask(ctx, "/api")
	if err != nil {
		return v.failed("version", "no answer: "+err.Error(), noService)
	}
	switch a.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusTooManyRequests:
		return v.skipped("version", "the API has users of its own, and tells others nothing: "+a.line())
	default:
		return v.failed("version", "/api answers "+a.line(), noService)
	}
	var about struct{ Host, Version, Service string }
	if err := json.Unmarshal([]byte(a.text), &about); err != nil || about.Service == "" {
		return v.failed("version", "/api does not tell what it is", noService)
	}
	result := fmt.Sprintf("%s %s, version %s", about.Service, about.Host, about.Version)
	switch {
	case !strings.EqualFold(about.Service, "analyzer"):
		return v.failed("version", result, "an analyzer is needed: agents listen on 8081, analyzers on 8082")
	case about.Version != v.Version:
		return v.ok("version", result+"; here it is "+v.Version, "analyzers are upgraded first, then agents")
	}
	return v.ok("version", result, "")
}

// Differences of clocks: what cannot be seen, as dates have whole seconds, and what does harm.
const (
	clockNoise = 2 * time.Second
	clockHarm  = 5 * time.Second
)

func (v *visit) clock(context.Context) bool {
	if !v.dated {
		return v.skipped("clock", "no answer had a date")
	}
	ahead := v.date
	word := "ahead of"
	if ahead < 0 {
		ahead, word = -ahead, "behind"
	}
	result := fmt.Sprintf("the clock there is %s %s the one here", ahead.Round(time.Second), word)
	switch {
	case ahead <= clockNoise:
		v.ok("clock", "no difference to be seen", "")
	case ahead <= clockHarm:
		v.ok("clock", result, "questions about the past are off by that much: chronyc tracking, or timedatectl, on both hosts")
	default:
		v.failed("clock", result, "questions about the past, and the dates of certificates, go wrong: synchronise both hosts (chronyc tracking, timedatectl)")
	}
	return true // nothing else depends on it
}
