package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skydive/src/tlsconf"
	"skydive/src/ws"
)

// pki makes an authority and certificates of one host, h1, that is localhost and 127.0.0.1, too.
func pki(t *testing.T) tlsconf.Files {
	t.Helper()
	dir := t.TempDir()
	h, err := tlsconf.ParseHost("h1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tlsconf.Init(tlsconf.InitOptions{Dir: dir, Hosts: []tlsconf.Host{h}, Life: 365 * 24 * time.Hour, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	in := func(file string) string { return filepath.Join(dir, "h1", file) }
	return tlsconf.Files{CACert: in(tlsconf.CACertFile), ServerCert: in(tlsconf.ServerCertFile), ServerKey: in(tlsconf.ServerKeyFile),
		ClientCert: in(tlsconf.ClientCertFile), ClientKey: in(tlsconf.ClientKeyFile)}
}

func certificates(t *testing.T, f tlsconf.Files) *tlsconf.Certificates {
	t.Helper()
	c, err := tlsconf.New(f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// odd is a certificate that change has spoiled, signed by the authority beside f.
func odd(t *testing.T, f tlsconf.Files, change func(*x509.Certificate)) *tls.Config {
	t.Helper()
	dir := filepath.Dir(filepath.Dir(f.CACert))
	ca, err := tls.LoadX509KeyPair(filepath.Join(dir, tlsconf.CACertFile), filepath.Join(dir, tlsconf.CAKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	template.Subject.CommonName = "odd"
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// analyzer is what the doctor wants to see: its health, what it is, and an endpoint for agents that nobody gets a session of.
type analyzer struct {
	version string
	service string
	users   func(r *http.Request) (string, []*http.Cookie, error)
	allowed bool
	connect ws.Connect
}

func (a analyzer) handler(t *testing.T) http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/ws/agent/topology", "/ws/replication"} {
		endpoint := ws.NewEndpoint(ws.EndpointOptions{
			Path: path, HostID: "a1", ServiceType: "analyzer", Metrics: ws.NewMetrics(nil), Logger: slog.New(slog.DiscardHandler),
			Authenticate: a.users, Authorize: func(string, string) bool { return a.allowed }, Connect: a.connect,
		})
		mux.Handle(path, endpoint)
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(func() {
			cancel()
			if err := endpoint.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || len(r.Cookies()) > 0 {
			t.Error("credentials went to who did not ask for them")
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("/api", func(w http.ResponseWriter, r *http.Request) {
		if _, _, err := a.users(r); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"Host": "a1", "Version": a.version, "Service": a.service})
	})
	return mux
}

// basic knows one user.
func basic(r *http.Request) (string, []*http.Cookie, error) {
	user, password, ok := r.BasicAuth()
	switch {
	case !ok:
		return "", nil, errors.New("No credentials provided")
	case user != "agent" || password != "secret":
		return "", nil, errors.New("Wrong credentials")
	}
	return user, nil, nil
}

func nobody(t *testing.T) ws.Connect {
	return func(*ws.Conn) (ws.Session, error) {
		t.Error("the doctor began a session")
		return nil, errors.New("no")
	}
}

func good(t *testing.T) analyzer {
	return analyzer{version: "v1", service: "analyzer", users: basic, allowed: true, connect: nobody(t)}
}

// start serves h, encrypted with a configuration.
func start(t *testing.T, h http.Handler, config *tls.Config) (addr string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	if config == nil {
		s.Start()
	} else {
		s.Listener = tls.NewListener(s.Listener, config)
		s.Start()
	}
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func options(addrs ...string) Options {
	return Options{Addresses: addrs, Service: "agent", HostID: "h1", Version: "v1", Username: "agent", Password: "secret", Timeout: 2 * time.Second,
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
}

// outcome of one address: "dns skipped, tcp ok, …".
func outcome(r Report) string {
	var list []string
	for _, c := range r.Checks {
		list = append(list, c.Name+" "+string(c.State))
	}
	return strings.Join(list, ", ")
}

func find(r Report, name string) Check {
	for _, c := range r.Checks {
		if c.Name == name {
			return c
		}
	}
	return Check{}
}

const allWell = "dns skipped, tcp ok, tls ok, auth ok, version ok, clock ok, websocket ok"

func TestAllWell(t *testing.T) {
	f := pki(t)
	c := certificates(t, f)
	addr := start(t, good(t).handler(t), c.Server())
	o := options(addr, "localhost:"+addr[strings.LastIndexByte(addr, ':')+1:])
	o.Certificates = c
	reports := Run(t.Context(), o)
	if len(reports) != 3 || reports[0].Address != ThisHost || outcome(reports[0]) != "certificates ok" || outcome(reports[1]) != allWell ||
		outcome(reports[2]) != strings.Replace(allWell, "dns skipped", "dns ok", 1) {
		t.Fatalf("%+v", reports)
	}
	for _, r := range reports {
		if r.Failed() {
			t.Errorf("%+v", r)
		}
		for _, check := range r.Checks {
			if check.Result == "" || check.Advice != "" {
				t.Errorf("%+v", check)
			}
		}
	}
	r := reports[2]
	for name, want := range map[string]string{
		"dns":       "localhost is 127.0.0.1",
		"tcp":       " answers within ",
		"tls":       "TLS 1.3; the server is CN=h1,O=Skydive, until " + time.Now().Add(365*24*time.Hour).UTC().Format(time.DateOnly) + ", signed by CN=Skydive CA ",
		"auth":      "user 'agent' may use /ws/agent/topology",
		"version":   "analyzer a1, version v1",
		"clock":     "no difference to be seen",
		"websocket": "analyzer a1 takes the connection",
	} {
		if got := find(r, name).Result; !strings.Contains(got, want) {
			t.Errorf("%s: %q lacks %q", name, got, want)
		}
	}
	if got := find(r, "tls").Result; !strings.HasSuffix(got, "; it took our certificate") {
		t.Error(got)
	}
	o.Service = "analyzer"
	if r := Run(t.Context(), o)[1]; outcome(r) != allWell || find(r, "auth").Result != "user 'agent' may use /ws/replication" {
		t.Errorf("%+v", r)
	}

	// In clear text on both sides.
	addr = start(t, good(t).handler(t), nil)
	reports = Run(t.Context(), options(addr))
	if outcome(reports[0]) != "certificates skipped" || outcome(reports[1]) != strings.Replace(allWell, "tls ok", "tls skipped", 1) {
		t.Errorf("%+v", reports)
	}
}

func TestName(t *testing.T) {
	for _, tc := range []struct {
		lookup       Lookup
		want, advice string
	}{
		{func(context.Context, string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "no such host", Name: "analyzer", IsNotFound: true}
		}, "there is no host analyzer", "/etc/hosts; getent hosts analyzer"},
		{func(context.Context, string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "i/o timeout", Name: "analyzer", IsTimeout: true}
		}, "no name server answered for analyzer within 2s", "/etc/resolv.conf"},
		{func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, "no name server answered for analyzer within 2s", "an address instead of the name"},
		{func(context.Context, string) ([]netip.Addr, error) {
			return nil, &net.DNSError{Err: "server misbehaving", Name: "analyzer", Server: "10.0.0.53:53"}
		}, "lookup analyzer on 10.0.0.53:53: server misbehaving", "/etc/resolv.conf"},
		{func(context.Context, string) ([]netip.Addr, error) { return nil, nil }, "analyzer has no address", "add one"},
	} {
		o := options("analyzer:8082")
		o.Lookup = tc.lookup
		r := Run(t.Context(), o)[1]
		if c := r.Checks[0]; outcome(r) != "dns failed, tcp skipped, tls skipped, auth skipped, version skipped, clock skipped, websocket skipped" || c.Result != tc.want || !strings.Contains(c.Advice, tc.advice) {
			t.Errorf("%s\n%+v", tc.want, r)
		}
	}
	// One of two addresses answers: that is enough, and spoken of.
	addr := netip.MustParseAddrPort(start(t, good(t).handler(t), nil))
	o := options("analyzer:" + netip.AddrPortFrom(addr.Addr(), addr.Port()).String()[len("127.0.0.1:"):])
	o.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("::ffff:127.0.0.1")}, nil
	}
	r := Run(t.Context(), o)[1]
	if find(r, "dns").Result != "analyzer is 127.0.0.2, 127.0.0.1" || find(r, "tcp").State != OK || find(r, "tcp").Advice != "nobody answers at 127.0.0.2, to which analyzer resolves too" {
		t.Errorf("%+v", r)
	}
}

func TestAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	r := Run(t.Context(), options(l.Addr().String()))[1]
	if c := find(r, "tcp"); c.State != Failed || !strings.HasPrefix(c.Result, "127.0.0.1 refuses connections to port ") || !strings.Contains(c.Advice, "analyzer.listen: 0.0.0.0:") {
		t.Errorf("%+v", r)
	}
	if r := Run(t.Context(), options("nonsense"))[1]; r.Checks[0].State != Failed {
		t.Errorf("%+v", r)
	}
}

// dumb takes connections and does this with each.
func dumb(t *testing.T, with func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			with(conn)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestTLS(t *testing.T) {
	f, other := pki(t), pki(t)
	handler := good(t).handler(t)
	served := func(change func(*x509.Certificate)) func(*testing.T) string {
		return func(t *testing.T) string { return start(t, handler, odd(t, f, change)) }
	}
	mine := certificates(t, f)
	silent := func(t *testing.T) string {
		return dumb(t, func(c net.Conn) { t.Cleanup(func() { c.Close() }) })
	}
	old := mine.Server()
	old.GetConfigForClient, old.Certificates = nil, odd(t, f, func(*x509.Certificate) {}).Certificates
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	ciphers := old.Clone()
	ciphers.MinVersion, ciphers.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	ciphers.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	strict := f
	strict.RequireClientCert = true
	noPair := tlsconf.Files{CACert: f.CACert, ServerCert: f.ServerCert, ServerKey: f.ServerKey}
	foreignClient := f
	foreignClient.ClientCert, foreignClient.ClientKey = other.ClientCert, other.ClientKey
	on := func(files tlsconf.Files) *tlsconf.Certificates { return certificates(t, files) }
	day := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.DateOnly) }
	for _, tc := range []struct {
		what         string
		start        func(*testing.T) string
		own          *tlsconf.Certificates
		want, advice string
	}{
		{"wrong CA", func(t *testing.T) string { return start(t, handler, on(other).Server()) }, mine,
			"the certificate of the server (CN=h1,O=Skydive) is signed by CN=Skydive CA ", "copy the ca.crt of that authority here"},
		{"wrong CA: whom we know", func(t *testing.T) string { return start(t, handler, on(other).Server()) }, mine,
			", who is not in tls.ca_cert here (CN=Skydive CA ", "several may stand in one"},
		{"signs itself", func(t *testing.T) string {
			s := httptest.NewUnstartedServer(handler)
			s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
			s.StartTLS()
			t.Cleanup(s.Close)
			return s.Listener.Addr().String()
		}, mine, "the certificate of the server (O=Acme Co) signs itself, and is not in tls.ca_cert here (CN=Skydive CA ", "add it to the file"},
		{"expired", served(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-48 * time.Hour) }), mine,
			"the certificate of the server (CN=odd) expired on " + day(-48*time.Hour), "skydive tls init --renew; the analyzer takes it into use by itself"},
		{"not yet valid", served(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(48 * time.Hour) }), mine,
			"the certificate of the server (CN=odd) is not valid before " + day(48*time.Hour), "is the clock of this host right?"},
		{"wrong name", served(func(c *x509.Certificate) {
			c.DNSNames, c.IPAddresses = []string{"a1.example.org"}, []net.IP{net.IPv4(10, 0, 0, 1)}
		}), mine,
			"the certificate of the server is not for 127.0.0.1, but for a1.example.org 10.0.0.1", "skydive tls init --renew HOST=127.0.0.1"},
		{"no name", served(func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil }), mine,
			"the certificate of the server (CN=odd) has no subject alternative names", "make one with 127.0.0.1 among them"},
		{"for clients", served(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }), mine,
			"the certificate of the server (CN=odd) is not for servers: its extended key usage lacks serverAuth", "make one that is"},
		{"clear text there", func(t *testing.T) string { return start(t, handler, nil) }, mine, "the server does not speak TLS", "set tls.server_cert, tls.server_key and tls.ca_cert there, or remove the section tls here"},
		{"clear text here", func(t *testing.T) string {
			s := httptest.NewUnstartedServer(handler)
			s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
			s.StartTLS()
			t.Cleanup(s.Close)
			return s.Listener.Addr().String()
		}, nil, "the analyzer wants TLS, and no certificates are configured here", "skydive tls init makes certificates"},
		{"silent", silent, mine, "the server takes the connection, but does not answer within 2s", "it hangs, or something else listens there"},
		{"silent, clear text", silent, nil, "it takes connections, but does not answer within 2s", "the analyzer hangs, or something else listens there, or wants TLS"},
		{"hangs up", func(t *testing.T) string { return dumb(t, func(c net.Conn) { c.Close() }) }, mine, "the server closed the connection without an answer", "it does not speak TLS"},
		{"hangs up, clear text", func(t *testing.T) string { return dumb(t, func(c net.Conn) { c.Close() }) }, nil, "no answer: ", "something else than Skydive"},
		{"garbage", func(t *testing.T) string {
			return dumb(t, func(c net.Conn) { _, _ = io.WriteString(c, "220 mail ESMTP\r\n"); c.Close() })
		}, mine, "the server does not speak TLS", "there"},
		{"TLS 1.1", func(t *testing.T) string { return start(t, handler, old) }, mine, "the server refused: protocol version not supported", "it speaks no TLS 1.2 or 1.3"},
		{"ciphers", func(t *testing.T) string { return start(t, handler, ciphers) }, mine, "the server refused: handshake failure", "ECDHE with AES-GCM is needed"},
		{"strict, and none", func(t *testing.T) string { return start(t, handler, on(strict).Server()) }, on(noPair), "the server refused: certificate required", "tls.require_client_cert"},
		{"strange client", func(t *testing.T) string { return start(t, handler, mine.Server()) }, on(foreignClient), "the server refused: unknown certificate authority", "its authority must be in tls.ca_cert there, where there are: CN=Skydive CA "},
		{"expired client", func(t *testing.T) string {
			config, err := mine.Server().GetConfigForClient(nil)
			if err != nil {
				t.Fatal(err)
			}
			config = config.Clone()
			config.Time = func() time.Time { return time.Now().Add(2 * 365 * 24 * time.Hour) } // the clock there is wrong
			return start(t, handler, config)
		}, mine, "the server refused: expired certificate", "is its clock right?"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			o := options(tc.start(t))
			o.Certificates = tc.own
			r := Run(t.Context(), o)[1]
			c := find(r, "tls")
			if outcome(r) != "dns skipped, tcp ok, tls failed, auth skipped, version skipped, clock skipped, websocket skipped" || !strings.Contains(c.Result, tc.want) || !strings.Contains(c.Advice, tc.advice) {
				t.Errorf("want %q, %q\n%+v", tc.want, tc.advice, r)
			}
		})
	}
}

// Nothing is wrong, but something soon will be.
func TestTLSAdvice(t *testing.T) {
	f := pki(t)
	o := options(start(t, good(t).handler(t), odd(t, f, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(10*24*time.Hour + time.Hour) })))
	o.Certificates = certificates(t, f)
	if c := find(Run(t.Context(), o)[1], "tls"); c.State != OK || c.Advice != "the certificate of the server expires in 10 days: renew it" || !strings.Contains(c.Result, "it asks for no certificate") {
		t.Errorf("%+v", c)
	}
	o = options(start(t, good(t).handler(t), certificates(t, f).Server()))
	o.Certificates = certificates(t, tlsconf.Files{CACert: f.CACert, ServerCert: f.ServerCert, ServerKey: f.ServerKey})
	if c := find(Run(t.Context(), o)[1], "tls"); c.State != OK || !strings.Contains(c.Result, "it asked for a certificate and got none") || !strings.Contains(c.Advice, "set tls.client_cert") {
		t.Errorf("%+v", c)
	}
}

func TestOwnCertificates(t *testing.T) {
	f := pki(t)
	if err := os.Remove(f.ClientKey); err != nil {
		t.Fatal(err)
	}
	o := options(start(t, good(t).handler(t), nil))
	o.Certificates, o.CertificatesError = tlsconf.New(f, slog.New(slog.DiscardHandler))
	reports := Run(t.Context(), o)
	if c := reports[0].Checks[0]; c.State != Failed || !strings.Contains(c.Result, f.ClientKey+" does not exist") || !strings.Contains(c.Advice, "no service starts with these") {
		t.Errorf("%+v", c)
	}
	if c := find(reports[1], "tls"); c.State != Failed || c.Result != "the certificates of this host cannot be used" || find(reports[1], "tcp").State != OK {
		t.Errorf("%+v", reports[1])
	}
	foreign := pki(t)
	f = pki(t)
	f.CACert = foreign.CACert
	o.Certificates, o.CertificatesError = tlsconf.New(f, slog.New(slog.DiscardHandler))
	if c := Run(t.Context(), o)[0].Checks[0]; c.State != OK || !strings.Contains(c.Advice, "peers that have the same file refuse it") || !strings.Contains(c.Result, "; client "+f.ClientCert+" until ") {
		t.Errorf("%+v", c)
	}
}

// answering says the same to everything but the question after its health.
func answering(status int, text string, header ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == open {
			return
		}
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	})
}

func TestAuth(t *testing.T) {
	f := pki(t)
	for _, tc := range []struct {
		what         string
		handler      http.Handler
		user         string
		want, advice string
	}{
		{"none", good(t).handler(t), "", "401 Unauthorized: No credentials provided", "set agent.auth.cluster.username and agent.auth.cluster.password here"},
		{"wrong", good(t).handler(t), "mallory", "user 'mallory' is refused: 401 Unauthorized: Wrong credentials", "the section of auth that analyzer.auth.cluster.backend names there"},
		{"no right", analyzer{version: "v1", service: "analyzer", users: basic, connect: nobody(t)}.handler(t), "agent",
			"user 'agent' is refused: 403 Forbidden: 'agent' has no permission on '/ws/agent/topology'", "skydive client rbac check USER websocket /ws/agent/topology tells why"},
		{"no certificate", answering(403, "agents and analyzers have to show a certificate"), "agent", "403 Forbidden: agents and analyzers have to show a certificate", "set tls.client_cert and tls.client_key here"},
		{"too many", answering(429, "Too many failed logins, try again in some seconds"), "agent", "429 Too Many Requests: Too many failed logins", "and wait a minute"},
		{"agent", http.NotFoundHandler(), "agent", "404 Not Found: 404 page not found", "agents listen on 8081, analyzers on 8082"},
		{"unwell", answering(503, "Keystone is away"), "agent", "503 Service Unavailable: Keystone is away", "see its log"},
		{"a page", answering(200, "<html><title>Welcome to nginx!</title>"), "agent", "/ws/agent/topology answers 200 OK", "something else than Skydive"},
		{"elsewhere", answering(302, "", "Location", "https://portal.example.org/login"), "agent", "/ws/agent/topology answers 302 Found", "something in between"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			t.Parallel()
			var config *tls.Config
			if tc.what == "no certificate" {
				config = certificates(t, f).Server()
			}
			o := options(start(t, tc.handler, config))
			if config != nil {
				o.Certificates = certificates(t, tlsconf.Files{CACert: f.CACert, ServerCert: f.ServerCert, ServerKey: f.ServerKey})
			}
			o.Username = tc.user
			r := Run(t.Context(), o)[1]
			c := find(r, "auth")
			if !strings.Contains(outcome(r), "auth failed, version skipped, clock skipped, websocket skipped") || !strings.Contains(c.Result, tc.want) || !strings.Contains(c.Advice, tc.advice) {
				t.Errorf("want %q, %q\n%+v", tc.want, tc.advice, r)
			}
		})
	}
	// Nobody is asked for credentials there.
	free := good(t)
	free.users = func(*http.Request) (string, []*http.Cookie, error) { return "admin", nil, nil }
	o := options(start(t, free.handler(t), nil))
	o.Username = ""
	if c := find(Run(t.Context(), o)[1], "auth"); c.State != OK || c.Result != "nobody in particular (agent.auth.cluster.username is not set) may use /ws/agent/topology" {
		t.Errorf("%+v", c)
	}
}

// public answers as a public analyzer does, whose endpoint says 400 to what is no upgrade.
func public(api http.HandlerFunc) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(open, http.NotFound)
	mux.HandleFunc("/ws/agent/topology", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "Bad Request", http.StatusBadRequest) })
	mux.HandleFunc("/api", api)
	return mux
}

func about(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, text) }
}

func TestVersion(t *testing.T) {
	for _, tc := range []struct {
		what         string
		api          http.HandlerFunc
		state        State
		want, advice string
	}{
		{"older", about(`{"Host":"a1","Version":"v0","Service":"Analyzer"}`), OK, "Analyzer a1, version v0; here it is v1", "analyzers are upgraded first"},
		{"agent", about(`{"Host":"h2","Version":"v1","Service":"agent"}`), Failed, "agent h2, version v1", "agents listen on 8081"},
		{"page", about("<html>"), Failed, "/api does not tell what it is", "something else than Skydive"},
		{"other JSON", about("{}"), Failed, "/api does not tell what it is", "something else than Skydive"},
		{"other users", func(w http.ResponseWriter, r *http.Request) { http.Error(w, "Wrong credentials", 401) }, Skipped, "the API has users of its own, and tells others nothing: 401 Unauthorized: Wrong credentials", ""},
		{"missing", http.NotFound, Failed, "/api answers 404 Not Found: 404 page not found", "something else than Skydive"},
	} {
		c := find(Run(t.Context(), options(start(t, public(tc.api), nil)))[1], "version")
		if c.State != tc.state || c.Result != tc.want || !strings.Contains(c.Advice, tc.advice) {
			t.Errorf("%s: %+v", tc.what, c)
		}
	}
}

func TestClock(t *testing.T) {
	for _, tc := range []struct {
		ahead  time.Duration
		state  State
		want   string
		advice string
	}{
		{0, OK, "no difference to be seen", ""},
		{4 * time.Second, OK, "ahead of the one here", "questions about the past are off"},
		{-4 * time.Second, OK, "behind the one here", "questions about the past are off"},
		{42 * time.Minute, Failed, "the clock there is 42m", "synchronise both hosts"},
		{-48 * time.Hour, Failed, "behind the one here", "synchronise both hosts"},
	} {
		o := options(start(t, good(t).handler(t), nil))
		o.Clock = func() time.Time { return time.Now().Add(-tc.ahead) }
		r := Run(t.Context(), o)[1]
		if c := find(r, "clock"); c.State != tc.state || !strings.Contains(c.Result, tc.want) || !strings.Contains(c.Advice, tc.advice) || find(r, "websocket").State != OK {
			t.Errorf("%v: %+v", tc.ahead, r)
		}
	}
	handler := good(t).handler(t)
	undated := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		handler.ServeHTTP(w, r)
	})
	if c := find(Run(t.Context(), options(start(t, undated, nil)))[1], "clock"); c.State != Skipped || c.Result != "no answer had a date" {
		t.Errorf("%+v", c)
	}
}

func TestWebSocket(t *testing.T) {
	// The agent of this host is connected: that is no collision.
	an := good(t)
	an.connect = func(*ws.Conn) (ws.Session, error) { return session{}, nil }
	addr := start(t, an.handler(t), nil)
	conn, err := ws.Dial(t.Context(), ws.DialOptions{Addr: addr, Path: "/ws/agent/topology", HostID: "h1", ClientType: "agent", Username: "agent", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	up, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		_ = conn.Run(ctx, func(*ws.Conn) (ws.Session, error) { close(up); return session{}, nil })
	}()
	defer func() { cancel(); <-done }()
	<-up
	r := Run(t.Context(), options(addr))[1]
	if c := find(r, "websocket"); c.State != OK || !strings.HasPrefix(c.Result, "the agent of this host is connected already, from 127.0.0.1:") {
		t.Errorf("%+v", c)
	}
	if conn.Status().IsConnected == false {
		t.Error("the doctor put the agent out")
	}

	// Another host has our name.
	handler := good(t).handler(t)
	taken := func(text string) string {
		return start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Upgrade") != "" {
				http.Error(w, text, http.StatusConflict)
				return
			}
			handler.ServeHTTP(w, r)
		}), nil)
	}
	for _, text := range []string{"host id 'h1' is already connected to /ws/agent/topology from 10.9.8.7:4711: is it set twice?", "h1 is connected from [fe80::1]:4711", "no"} {
		c := find(Run(t.Context(), options(taken(text)))[1], "websocket")
		if c.State != Failed || c.Result != text || !strings.Contains(c.Advice, "two hosts have the same host_id 'h1'") {
			t.Errorf("%+v", c)
		}
	}

	// Something in between does not pass the upgrade.
	stripping := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Upgrade")
		r.Header.Del("Connection")
		handler.ServeHTTP(w, r)
	}), nil)
	r = Run(t.Context(), options(stripping))[1]
	if c := find(r, "websocket"); c.State != Failed || !strings.Contains(c.Result, "426 Upgrade Required") || !strings.Contains(c.Advice, "a proxy that lacks the headers Upgrade and Connection") {
		t.Errorf("%+v", r)
	}
	o := options(stripping)
	o.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://user:pass@proxy:3128") }
	if c := find(Run(t.Context(), o)[1], "websocket"); c.State != Failed || !strings.Contains(c.Advice, "the proxy http://user:xxxxx@proxy:3128 of the environment") || !strings.Contains(c.Advice, "NO_PROXY=127.0.0.1") {
		t.Errorf("%+v", c)
	}

	// It upgrades, but is not ours.
	alien := start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			w = hidden{w}
		}
		handler.ServeHTTP(w, r)
	}), nil)
	if c := find(Run(t.Context(), options(alien))[1], "websocket"); c.State != Failed || !strings.Contains(c.Advice, "something else than Skydive") {
		t.Errorf("%+v", c)
	}
}

type session struct{}

func (session) Receive(io.Reader) error { return nil }
func (session) Closed(error)            {}

// hidden takes away what tells an analyzer.
type hidden struct{ http.ResponseWriter }

func (h hidden) Header() http.Header {
	header := h.ResponseWriter.Header()
	header.Del("X-Host-ID")
	return header
}
func (h hidden) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func TestEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := Run(ctx, options("127.0.0.1:1", "localhost:1")); len(r) != 3 || !r[1].Failed() || !r[2].Failed() {
		t.Errorf("%+v", r)
	}
}

func TestAuthorityName(t *testing.T) {
	f := pki(t)
	data, err := os.ReadFile(f.CACert)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if got := authorityName(c.RawSubject); got != c.Subject.String() {
		t.Error(got)
	}
	if got := authorityName([]byte("x")); got != "?" {
		t.Error(got)
	}
}
