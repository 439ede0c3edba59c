package tlsconf

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority is one for tests.
func authority(t testing.TB) *Authority {
	t.Helper()
	a, err := NewAuthority(time.Now(), authorityLife)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// pair signs what change makes of a good certificate for both uses, and returns it with its key.
func pair(t testing.TB, a *Authority, change func(*x509.Certificate)) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "h1"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
		DNSNames: []string{"h1", "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(template)
	}
	parent, signer := template, a
	if a == nil {
		signer = &Authority{key: private}
	} else {
		parent = a.cert
	}
	signed, err := sign(template, parent, private.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	key, err = keyPEM(private)
	if err != nil {
		t.Fatal(err)
	}
	return certPEM(signed), key
}

func put(t testing.TB, file string, data ...[]byte) {
	t.Helper()
	if err := write(file, bytes.Join(data, nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

// filesIn writes a complete set into a directory of its own.
func filesIn(t testing.TB, a *Authority) Files {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	f := Files{CACert: in("ca.crt"), ServerCert: in("server.crt"), ServerKey: in("server.key"), ClientCert: in("client.crt"), ClientKey: in("client.key")}
	put(t, f.CACert, certPEM(a.cert))
	cert, key := pair(t, a, nil)
	put(t, f.ServerCert, cert)
	put(t, f.ServerKey, key)
	cert, key = pair(t, a, nil)
	put(t, f.ClientCert, cert)
	put(t, f.ClientKey, key)
	return f
}

// journal keeps log lines.
type journal struct {
	mu    sync.Mutex
	lines []string
	added chan struct{} // one entry per line, as far as there is room
}

func newJournal() (*journal, *slog.Logger) {
	j := &journal{added: make(chan struct{}, 100)}
	return j, slog.New(slog.NewTextHandler(j, nil))
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	j.lines = append(j.lines, string(line))
	j.mu.Unlock()
	select {
	case j.added <- struct{}{}:
	default:
	}
	return len(line), nil
}

// count tells how many lines hold a text.
func (j *journal) count(text string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.lines {
		if strings.Contains(l, text) {
			n++
		}
	}
	return n
}

// wait returns once a line holds a text.
func (j *journal) wait(t *testing.T, text string) {
	t.Helper()
	limit := time.After(10 * time.Second)
	for j.count(text) == 0 {
		select {
		case <-j.added:
		case <-limit:
			t.Fatalf("no %q in the log: %q", text, j.lines)
		}
	}
}

func mustNew(t testing.TB, f Files) *Certificates {
	t.Helper()
	c, err := New(f, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func status(c *Certificates) Status { return c.Status().(Status) }

// server answers each connection with one byte, after the handshake; seen gets what the client showed, or why it is refused.
type server struct {
	addr string
	seen chan shown
}

type shown struct {
	verified bool
	err      error
}

func serve(t testing.TB, config *tls.Config) *server {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{l.Addr().String(), make(chan shown, 10)}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			secure := conn.(*tls.Conn)
			_ = secure.SetDeadline(time.Now().Add(5 * time.Second))
			err = secure.Handshake()
			s.seen <- shown{len(secure.ConnectionState().VerifiedChains) > 0, err}
			_, _ = secure.Write([]byte("!"))
			secure.Close()
		}
	})
	t.Cleanup(func() { l.Close(); done.Wait() })
	return s
}

// call shakes hands as a client that asks for a host of this name, and waits for the byte: a server that refuses says so no earlier.
func (s *server) call(t testing.TB, config *tls.Config, name string) (*x509.Certificate, error) {
	t.Helper()
	config = config.Clone()
	config.ServerName = name
	conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return nil, err
	}
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0], nil
}

func TestOff(t *testing.T) {
	c := mustNew(t, Files{})
	if c.Enabled() || c.Server() != nil || c.Client() != nil || status(c).State != "off" {
		t.Errorf("TLS without files: %+v", status(c))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestHalves(t *testing.T) {
	for _, tc := range []struct {
		files Files
		want  string
	}{
		{Files{ServerCert: "s.crt", CACert: "ca"}, "TLS is configured by halves: tls.server_cert is set, but tls.server_key is not"},
		{Files{ServerKey: "s.key", CACert: "ca"}, "tls.server_key is set, but tls.server_cert is not"},
		{Files{ClientCert: "c.crt", CACert: "ca"}, "tls.client_cert is set, but tls.client_key is not"},
		{Files{ClientKey: "c.key", CACert: "ca", ServerCert: "s", ServerKey: "k"}, "tls.client_key is set, but tls.client_cert is not"},
		{Files{CACert: "ca"}, "tls.ca_cert is set, but neither tls.server_cert with tls.server_key nor"},
		{Files{ServerCert: "s", ServerKey: "k"}, "tls.ca_cert is not set"},
		{Files{ClientCert: "c", ClientKey: "k"}, "tls.ca_cert is not set"},
		{Files{RequireClientCert: true}, "tls.require_client_cert is set, but tls.server_cert and tls.server_key are not"},
		{Files{RequireClientCert: true, CACert: "ca", ClientCert: "c", ClientKey: "k"}, "tls.require_client_cert is set, but"},
	} {
		c, err := New(tc.files, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), tc.want) || c != nil && c.Enabled() {
			t.Errorf("%+v\ngot  %v\nwant %s", tc.files, err, tc.want)
		}
	}
}

func TestHandshakes(t *testing.T) {
	ca, foreign := authority(t), authority(t)
	files := filesIn(t, ca)
	serverOnly := Files{CACert: files.CACert, ServerCert: files.ServerCert, ServerKey: files.ServerKey}
	clientOnly := Files{CACert: files.CACert, ClientCert: files.ClientCert, ClientKey: files.ClientKey}
	strict := files
	strict.RequireClientCert = true
	bare := func(f Files) *tls.Config { // a browser: it knows the authority, and shows nothing
		config := mustNew(t, f).Client()
		config.GetClientCertificate = nil
		return config
	}
	showing := func(a *Authority, change func(*x509.Certificate)) *tls.Config {
		cert, key := pair(t, a, change)
		p, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		config := bare(files)
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &p, nil }
		return config
	}
	old := bare(files)
	old.MaxVersion = tls.VersionTLS11
	old.MinVersion = tls.VersionTLS10
	cbc := bare(files)
	cbc.MaxVersion = tls.VersionTLS12
	cbc.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	twelve := mustNew(t, files).Client()
	twelve.MaxVersion = tls.VersionTLS12
	p521 := mustNew(t, files).Client()
	p521.CurvePreferences = []tls.CurveID{tls.CurveP521}
	for _, tc := range []struct {
		what     string
		server   Files
		client   *tls.Config
		name     string
		verified bool
		wrong    string // of the client
		refusal  string // of the server
	}{
		{"both show", files, mustNew(t, files).Client(), "localhost", true, "", ""},
		{"by address", files, mustNew(t, files).Client(), "127.0.0.1", true, "", ""},
		{"TLS 1.2", files, twelve, "h1", true, "", ""},
		{"P-521", files, p521, "h1", true, "", ""},
		{"client files only", serverOnly, mustNew(t, clientOnly).Client(), "h1", true, "", ""},
		{"no client certificate", files, bare(files), "h1", false, "", ""},
		{"a service without client certificate", files, mustNew(t, serverOnly).Client(), "h1", false, "", ""},
		{"strict, with", strict, mustNew(t, files).Client(), "h1", true, "", ""},
		{"strict, without", strict, bare(files), "h1", false, "certificate required", "client didn't provide a certificate"},
		{"wrong name", files, mustNew(t, files).Client(), "h2", false, "not h2", "bad certificate"},
		{"wrong address", files, mustNew(t, files).Client(), "127.0.0.2", false, "not 127.0.0.2", "bad certificate"},
		{"wrong CA of the server", filesIn(t, foreign), mustNew(t, files).Client(), "h1", false, "certificate signed by unknown authority", "bad certificate"},
		{"wrong CA of the client", files, showing(foreign, nil), "h1", false, "unknown certificate authority", "certificate signed by unknown authority"},
		{"expired client", files, showing(ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "h1", false, "expired certificate", "certificate has expired"},
		{"client with the certificate of a server", files, showing(ca, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), "h1", false, "bad certificate", "incompatible key usage"},
		{"TLS 1.1", files, old, "h1", false, "protocol version not supported", "unsupported versions"},
		{"CBC", files, cbc, "h1", false, "handshake failure", "no cipher suite supported"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			s := serve(t, mustNew(t, tc.server).Server())
			_, err := s.call(t, tc.client, tc.name)
			if tc.wrong == "" && err != nil || tc.wrong != "" && (err == nil || !strings.Contains(err.Error(), tc.wrong)) {
				t.Errorf("client: got %v, want %q", err, tc.wrong)
			}
			got := <-s.seen
			if got.verified != tc.verified || tc.refusal == "" && got.err != nil || tc.refusal != "" && (got.err == nil || !strings.Contains(got.err.Error(), tc.refusal)) {
				t.Errorf("server: got %+v, want verified %v, %q", got, tc.verified, tc.refusal)
			}
		})
	}
}

// A server certificate made by somebody whom the system trusts is good for a service without a client certificate.
func TestPublicRoots(t *testing.T) {
	// A process reads the roots of its system once, so that this takes one of its own.
	dir := os.Getenv("SKYDIVE_TEST_ROOTS")
	if dir == "" {
		child := exec.Command(os.Args[0], "-test.run=^TestPublicRoots$", "-test.v")
		dir = t.TempDir()
		child.Env = append(os.Environ(), "SKYDIVE_TEST_ROOTS="+dir, "SSL_CERT_DIR="+dir, "SSL_CERT_FILE="+filepath.Join(t.TempDir(), "none"))
		if out, err := child.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestPublicRoots")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	public, own := authority(t), authority(t)
	put(t, filepath.Join(dir, "system.crt"), certPEM(public.cert))
	f := filesIn(t, own)
	s := serve(t, mustNew(t, filesIn(t, public)).Server())
	_, withPair := s.call(t, mustNew(t, f).Client(), "h1")
	var unknown x509.UnknownAuthorityError
	if !errors.As(withPair, &unknown) {
		t.Errorf("with ca_cert and client_cert the system has no say: %v", withPair)
	}
	<-s.seen
	if _, err := s.call(t, mustNew(t, Files{CACert: f.CACert, ServerCert: f.ServerCert, ServerKey: f.ServerKey}).Client(), "h1"); err != nil {
		t.Error(err)
	}
}

func TestServerConfig(t *testing.T) {
	c := mustNew(t, filesIn(t, authority(t)))
	config, err := c.Server().GetConfigForClient(&tls.ClientHelloInfo{})
	if err != nil || config.MinVersion != tls.VersionTLS12 || len(config.NextProtos) != 1 || config.NextProtos[0] != "http/1.1" || !config.SessionTicketsDisabled {
		t.Errorf("%+v %v", config, err)
	}
	if allocs := testing.AllocsPerRun(100, func() { _, _ = c.Server().GetConfigForClient(nil) }); allocs > 3 {
		t.Errorf("%v allocations for a configuration that is there already", allocs)
	}
}

// What is not shown cannot leak.
func TestStatusHasNoKey(t *testing.T) {
	f := filesIn(t, authority(t))
	s := status(mustNew(t, f))
	if s.State != "running" || len(s.Certificates) != 3 || s.Reason != "" || len(s.Warnings) != 0 {
		t.Fatalf("%+v", s)
	}
	for i, use := range []string{"ca", "server", "client"} {
		c := s.Certificates[i]
		if c.Use != use || c.Subject == "" || c.NotAfter.IsZero() || len(c.Fingerprint) != 64 || strings.Contains(c.File, ".key") || use != "ca" && strings.Join(c.Names, " ") != "h1 localhost 127.0.0.1" {
			t.Errorf("%+v", c)
		}
	}
	shown, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{f.ServerKey, f.ClientKey} {
		key, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if secret := bytes.Split(key, []byte("\n"))[1]; len(secret) < 40 || bytes.Contains(shown, secret) {
			t.Errorf("%s is in the status: %s", file, shown)
		}
	}
}
