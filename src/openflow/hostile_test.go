package openflow

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve accepts connections on a socket of its own and hands them to fn, one after the other.
func serve(t testing.TB, fn func(net.Conn)) (address string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "of")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, fn)
	return "unix:" + filepath.Join(dir, "s")
}

func serveOn(t testing.TB, l net.Listener, fn func(net.Conn)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fn(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
}

// answerer plays a switch: it answers requests by their kind.
type answerer struct {
	version Version
	rules   [][]byte // bodies of the answer to a request for rules
	silent  bool
}

func (s answerer) play(conn net.Conn) {
	if _, err := conn.Write(hello([]Version{s.version})); err != nil {
		return
	}
	for {
		h := make([]byte, headerSize)
		if _, err := io.ReadFull(conn, h); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint16(h[2:])-headerSize)
		if _, err := io.ReadFull(conn, body); err != nil {
			return
		}
		xid := binary.BigEndian.Uint32(h[4:])
		var out []byte
		switch {
		case h[1] == typeHello || s.silent:
		case h[1] == typeEchoRequest:
			out = start(s.version, typeEchoReply).finish(xid)
		case xid == xidRules:
			for _, b := range s.rules {
				out = append(out, append(start(s.version, h[1]+1), b...).finish(xid)...)
			}
		default: // it knows nothing else
			out = append(start(s.version, typeError).u16(1).u16(1), body[:min(len(body), 64)]...).finish(xid)
		}
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// TestSwitchWithoutExtensions speaks to a switch that knows neither monitors nor groups: its rules are shown all the same.
func TestSwitchWithoutExtensions(t *testing.T) {
	for v := Version11; v <= Version15; v++ {
		address := serve(t, answerer{version: v, rules: recorded(t, v)[:1]}.play)
		r := follow(t, Options{Address: address, Versions: []Version{v}, Poll: 10 * time.Millisecond})
		if got := <-r.connected; got != v {
			t.Errorf("speaks %v, want %v", got, v)
		}
		r.until("rules", func() bool { return len(r.rules) > 100 })
	}
	// 1.0 without Nicira's extension is asked in the plain way.
	wild := builder(nil).u16(88).u8(3, 0).u32(0x3fffff).zeros(36).zeros(8).u16(77).zeros(26 + 4).u64(0)[:88]
	plain := answerer{version: Version10}
	asked := make(chan uint16, 10)
	address := serve(t, func(conn net.Conn) {
		front, back := net.Pipe()
		go plain.play(back)
		defer front.Close()
		go func() { _, _ = io.Copy(conn, front) }()
		for {
			h := make([]byte, headerSize)
			if _, err := io.ReadFull(conn, h); err != nil {
				return
			}
			body := make([]byte, binary.BigEndian.Uint16(h[2:])-headerSize)
			if _, err := io.ReadFull(conn, body); err != nil {
				return
			}
			if binary.BigEndian.Uint32(h[4:]) != xidRules {
				if _, err := front.Write(append(h, body...)); err != nil {
					return
				}
				continue
			}
			kind := binary.BigEndian.Uint16(body)
			asked <- kind
			out := append(start(Version10, typeError).u16(1).u16(3), body...).finish(xidRules)
			if kind == statsFlow {
				out = append(start(Version10, typeStats10+1).u16(statsFlow).u16(0), wild...).finish(xidRules)
			}
			if _, err := conn.Write(out); err != nil {
				return
			}
		}
	})
	r := follow(t, Options{Address: address, Versions: []Version{Version10}})
	r.until("a rule", func() bool { return strings.Join(r.list(), "") == "priority=77,table=3 actions=drop" })
	if first, second := <-asked, <-asked; first != statsExperimenter || second != statsFlow {
		t.Errorf("asked for %d, then %d", first, second)
	}
}

// TestBadSwitches gives each a chance to do harm: the client must say why it has no connection, and try again.
func TestBadSwitches(t *testing.T) {
	v := Version14
	cut := func(body []byte) []byte { return append(start(v, typeMultipart+1), body...).finish(xidRules) }
	write := func(b []byte) func(net.Conn) {
		return func(conn net.Conn) {
			if _, err := conn.Write(b); err == nil {
				_, _ = io.Copy(io.Discard, conn)
			}
		}
	}
	good := hello([]Version{v})
	for name, c := range map[string]struct {
		fn   func(net.Conn)
		want string
	}{
		"ends":             {func(net.Conn) {}, ""},
		"speaks HTTP":      {write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")), "not OpenFlow"},
		"short length":     {write([]byte{5, 0, 0, 3, 0, 0, 0, 0}), "not OpenFlow"},
		"zeros":            {write(make([]byte, 1<<16)), "not OpenFlow"},
		"other version":    {write(hello([]Version{Version12})), "no version in common"},
		"refuses":          {write(append(start(1, typeError).u16(0).u16(0), "no such version"...).finish(1)), "no such version"},
		"first an error":   {write(start(1, typeError).u16(1).u16(5).finish(1)), "error type 1, code 5"},
		"no hello":         {write(start(v, typeEchoReply).finish(1)), "in place of a hello"},
		"cut rule":         {write(append(good, cut(builder(nil).u16(1).u16(0).zeros(4).u16(500).zeros(20))...)), "cut short"},
		"cut answer":       {write(append(good, cut(builder(nil).u16(1))...)), "cut short"},
		"zero length rule": {write(append(good, cut(builder(nil).u16(1).u16(0).zeros(4).zeros(64))...)), "cut short"},
		"garbage after":    {write(append(good, make([]byte, 1000)...)), "not OpenFlow"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := follow(t, Options{Address: serve(t, c.fn), Versions: []Version{v}})
			for range 2 {
				if err := <-r.lost; !strings.Contains(err.Error(), c.want) {
					t.Errorf("reason %q, want %q", err, c.want)
				}
			}
		})
	}
}

// TestTooManyRules keeps what there is room for and tells how many it left out.
func TestTooManyRules(t *testing.T) {
	body := builder(nil).u16(statsFlow).u16(0).zeros(4)
	for i := range 100 {
		body = body.u16(56).u8(0, 0).zeros(8).u16(uint16(i)).zeros(10).zeros(24).u16(1).u16(4).zeros(4)
	}
	r := follow(t, Options{
		Address: serve(t, answerer{version: Version14, rules: [][]byte{body}}.play), Versions: []Version{Version14}, Limit: 30,
	})
	omitted := 0
	for omitted == 0 {
		select {
		case u := <-r.updates:
			r.apply(u)
			omitted = u.Omitted
		case <-time.After(patience):
			t.Fatal("nothing was left out")
		}
	}
	if len(r.rules) != 30 || omitted != 70 {
		t.Errorf("%d rules, %d left out", len(r.rules), omitted)
	}
}

// TestRulesOutliveShortInterruptions takes the switch away: its rules go, but not at once.
func TestRulesOutliveShortInterruptions(t *testing.T) {
	turns := 0
	address := serve(t, func(conn net.Conn) {
		if turns++; turns > 1 {
			return
		}
		go func() {
			timer := time.NewTimer(300 * time.Millisecond)
			<-timer.C
			_ = conn.Close()
		}()
		answerer{version: Version14, rules: recorded(t, Version14)[:1]}.play(conn)
	})
	r := follow(t, Options{Address: address, Versions: []Version{Version14}})
	r.until("rules", func() bool { return len(r.rules) > 100 })
	<-r.lost
	since := time.Now()
	r.until("no rules", func() bool { return len(r.rules) == 0 })
	if d := time.Since(since); d < forgetAfter/2 || d > 2*forgetAfter {
		t.Errorf("forgotten after %v", d)
	}
}

func TestTLS(t *testing.T) {
	cert, roots := certificate(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, answerer{version: Version13, rules: recorded(t, Version13)[:1]}.play)
	with := func(roots *x509.CertPool) func() *tls.Config {
		return func() *tls.Config { return &tls.Config{RootCAs: roots} }
	}
	o := Options{Address: "ssl:" + l.Addr().String(), Versions: []Version{Version13}, TLS: with(x509.NewCertPool())}
	r := follow(t, o)
	var unknown x509.UnknownAuthorityError
	if err := <-r.lost; !errors.As(err, &unknown) {
		t.Errorf("a certificate of somebody else: %v", err)
	}
	o.TLS = func() *tls.Config { return &tls.Config{RootCAs: roots, ServerName: "other"} }
	var name x509.HostnameError
	if err := <-follow(t, o).lost; !errors.As(err, &name) {
		t.Errorf("a certificate with another name: %v", err)
	}
	o.TLS = with(roots)
	r = follow(t, o)
	r.until("rules", func() bool { return len(r.rules) > 100 })
}

func TestBadOptions(t *testing.T) {
	for _, o := range []Options{
		{}, {Address: "br0"}, {Address: "unix:"}, {Address: "http://host"}, {Address: "ssl:host:1"}, {Address: "tcp:h:1"},
		{Address: "tcp:h:1", Versions: []Version{0, 7}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
	for address, want := range map[string]string{
		"tcp:h": "h:6653", "tcp:h:1": "h:1", "tcp://h:1": "h:1", "tcp:[::1]:2": "[::1]:2", "tcp:[::1]": "[::1]:6653", "unix:///a/b": "/a/b", "unix:/a": "/a",
	} {
		c, err := New(Options{Address: address, Versions: []Version{Version13}})
		if err != nil || c.address != want {
			t.Errorf("%s: %+v, %v", address, c, err)
		}
	}
	for _, name := range []string{"", "OpenFlow", "OpenFlow16", "OpenFlow1", "OpenFlow130", "openflow13"} {
		if _, err := ParseVersion(name); err == nil {
			t.Errorf("version %q is taken", name)
		}
	}
	if v, err := ParseVersion("OpenFlow13"); v != Version13 || err != nil {
		t.Error(v, err)
	}
}
