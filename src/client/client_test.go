package client

import (
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newClient(t testing.TB, h http.Handler, o Options) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	o.Analyzer = s.Listener.Addr().String()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAddress(t *testing.T) {
	for in, want := range map[string]string{
		"": "127.0.0.1:8082", "8082": "127.0.0.1:8082", ":9000": "127.0.0.1:9000", "host:1": "host:1", "[::1]:80": "[::1]:80",
		"10.0.0.1:http": "", "host:": "", "a:b:c": "", "host:70000": "", "http://x:1": "",
	} {
		c, err := New(Options{Analyzer: in})
		if want == "" {
			if err == nil {
				t.Errorf("%q was accepted as %s", in, c.Addr())
			}
			continue
		}
		if err != nil || c.Addr() != want || c.URL() != "http://"+want {
			t.Errorf("%q: %v %v, want %s", in, c, err, want)
		}
	}
}

// A server that behaves like the CRUD part of the contract.
func crud(t *testing.T) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/capture", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "gzip" {
			t.Errorf("Accept-Encoding %q", r.Header.Get("Accept-Encoding"))
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		fmt.Fprint(z, `{"b":{"UUID":"b"},"a":{"UUID":"a"}}`)
		z.Close()
	})
	mux.HandleFunc("/api/capture/{id}", func(w http.ResponseWriter, r *http.Request) {
		switch id := r.PathValue("id"); {
		case id == "a/b c" && r.Method == http.MethodGet:
			fmt.Fprint(w, `{"UUID":"a/b c"}`)
		case id == "a" && r.Method == http.MethodDelete:
		case id == "a" && r.Method == http.MethodPatch:
			body, _ := io.ReadAll(r.Body)
			if string(body) == `[{"op":"remove","path":"/Metadata/x","value":null}]` {
				w.WriteHeader(http.StatusNotModified)
				return
			}
			fmt.Fprint(w, `{"UUID":"a"}`)
		case id == "forbidden":
			http.Error(w, "'bob' has no 'read' permission on 'capture'", http.StatusMethodNotAllowed)
		default:
			http.Error(w, "Capture '"+id+"' not found", http.StatusNotFound)
		}
	})
	mux.HandleFunc("POST /api/capture", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		user, password, _ := r.BasicAuth()
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]string{
			"body": string(body), "ttl": r.Header.Get("X-Resource-TTL"), "type": r.Header.Get("Content-Type"), "user": user + ":" + password,
		})
	})
	return mux
}

func TestResources(t *testing.T) {
	c := newClient(t, crud(t), Options{Username: "admin", Password: "p"})
	ctx := t.Context()

	var list map[string]struct{ UUID string }
	if err := c.List(ctx, "capture", &list); err != nil || len(list) != 2 || list["a"].UUID != "a" {
		t.Errorf("List: %v %v", list, err)
	}
	var raw json.RawMessage
	if err := c.List(ctx, "capture", &raw); err != nil || string(raw) != `{"b":{"UUID":"b"},"a":{"UUID":"a"}}` {
		t.Errorf("List keeps the order of the server: %s %v", raw, err)
	}
	var one struct{ UUID string }
	if err := c.Get(ctx, "capture", "a/b c", &one); err != nil || one.UUID != "a/b c" {
		t.Errorf("Get: %v %v", one, err)
	}
	var created map[string]string
	if err := c.Create(ctx, "capture", map[string]string{"GremlinQuery": "G.V()"}, 5*time.Second, &created); err != nil {
		t.Error(err)
	}
	if created["body"] != `{"GremlinQuery":"G.V()"}` || created["ttl"] != "5s" || created["type"] != "application/json" || created["user"] != "admin:p" {
		t.Errorf("server got %v", created)
	}
	created = nil
	if err := c.Create(ctx, "capture", json.RawMessage(`{}`), 0, &created); err != nil || created["ttl"] != "" {
		t.Errorf("without TTL: %v %v", created, err)
	}
	if modified, err := c.Patch(ctx, "capture", "a", []PatchOp{{Op: "remove", Path: "/Metadata/x"}}, nil); err != nil || modified {
		t.Errorf("Patch that changes nothing: %v %v", modified, err)
	}
	if modified, err := c.Patch(ctx, "capture", "a", []PatchOp{{Op: "add", Path: "/Metadata/x", Value: 1}}, &one); err != nil || !modified || one.UUID != "a" {
		t.Errorf("Patch: %v %v", modified, err)
	}
	if err := c.Delete(ctx, "capture", "a"); err != nil {
		t.Error(err)
	}
	if err := c.Delete(ctx, "capture", ""); err == nil {
		t.Error("Delete without id must not ask the server to delete everything")
	}
}

func TestErrors(t *testing.T) {
	c := newClient(t, crud(t), Options{})
	for want, err := range map[string]error{
		"Failed to get capture, 404 Not Found: Capture 'zzz' not found":                              c.Get(t.Context(), "capture", "zzz", nil),
		"Failed to get capture, 405 Method Not Allowed: 'bob' has no 'read' permission on 'capture'": c.Get(t.Context(), "capture", "forbidden", nil),
		"Failed to delete capture, 404 Not Found: Capture 'zzz' not found":                           c.Delete(t.Context(), "capture", "zzz"),
		"Failed to list alert, 404 Not Found: 404 page not found":                                    c.List(t.Context(), "alert", nil),
		"Failed to create alert, 404 Not Found: 404 page not found":                                  c.Create(t.Context(), "alert", 1, 0, nil),
		"Failed to get status, 404 Not Found: 404 page not found":                                    c.Status(t.Context(), nil),
		"Failed to import pcap, 404 Not Found: 404 page not found":                                   c.ImportPcap(t.Context(), strings.NewReader("x")),
		"Failed to call workflow, 404 Not Found: 404 page not found":                                 c.CallWorkflow(t.Context(), "w", nil, nil),
		"404 Not Found: 404 page not found":                                                          c.QueryInto(t.Context(), "G", nil),
	} {
		var e *Error
		if !errors.As(err, &e) || e.Status == 0 || err.Error() != want {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
	dead, err := New(Options{Analyzer: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.List(t.Context(), "capture", nil); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("no server: %v", err)
	}
}

func TestQuery(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/topology", func(w http.ResponseWriter, r *http.Request) {
		var q struct{ GremlinQuery string }
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		switch {
		case q.GremlinQuery == "":
			w.WriteHeader(http.StatusNoContent)
		case r.Header.Get("Accept") == "text/vnd.graphviz":
			fmt.Fprint(w, "digraph g {}")
		case r.Header.Get("Accept") != "application/json":
			http.Error(w, "no", http.StatusNotAcceptable)
		case q.GremlinQuery == "G":
			fmt.Fprint(w, `[{"Nodes":[{"ID":"n","Metadata":{"Name":"eth0","Type":"veth"},"Host":"h","Origin":"o","CreatedAt":1,"UpdatedAt":2,"DeletedAt":null,"Revision":3}],"Edges":null}]`+"\n")
		case q.GremlinQuery == "G.V()":
			fmt.Fprint(w, `[{"ID":"n","Metadata":{"Name":"<a&b>"},"Host":"h"}]`)
		default:
			http.Error(w, "syntax error", http.StatusBadRequest)
		}
	})
	c := newClient(t, mux, Options{})
	nodes, edges, err := c.QueryGraph(t.Context(), "G")
	if err != nil || len(nodes) != 1 || len(edges) != 0 || nodes[0].ID != "n" || nodes[0].Metadata.Text("Name") != "eth0" || nodes[0].Revision != 3 {
		t.Errorf("QueryGraph: %v %v %v", nodes, edges, err)
	}
	if nodes, err := c.QueryNodes(t.Context(), "G.V()"); err != nil || len(nodes) != 1 || nodes[0].Metadata.Text("Name") != "<a&b>" {
		t.Errorf("QueryNodes: %v %v", nodes, err)
	}
	dot, err := c.Query(t.Context(), "G", "text/vnd.graphviz")
	if err != nil {
		t.Fatal(err)
	}
	defer dot.Close()
	if b, _ := io.ReadAll(dot); string(b) != "digraph g {}" {
		t.Errorf("dot: %s", b)
	}
	if _, err := c.Query(t.Context(), "G.X(", ""); err == nil || err.Error() != "400 Bad Request: syntax error" {
		t.Errorf("bad query: %v", err)
	}
	var e *Error
	if _, err := c.Query(t.Context(), "", ""); !errors.As(err, &e) || e.Status != http.StatusNoContent {
		t.Errorf("empty query: %v", err)
	}
}

func TestLogin(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("username") != "admin" || r.FormValue("password") != "p&q" {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, "Wrong credentials")
			return
		}
		fmt.Fprint(w, `{"Token":"t0k","Permissions":[{"Object":"capture","Action":"read","Allowed":true}]}`)
	})
	mux.HandleFunc("GET /api", func(w http.ResponseWriter, r *http.Request) {
		_, _, basic := r.BasicAuth()
		fmt.Fprintf(w, `{"Host":"h","Version":"%s","Service":"%v"}`+"\n", r.Header.Get("X-Auth-Token"), basic)
	})
	c := newClient(t, mux, Options{Username: "admin", Password: "p&q"})
	if info, err := c.Info(t.Context()); err != nil || info != (Info{"h", "", "true"}) {
		t.Errorf("before login: %v %v", info, err)
	}
	login, err := c.Login(t.Context())
	if err != nil || login.Token != "t0k" || len(login.Permissions) != 1 || !login.Permissions[0].Allowed {
		t.Errorf("Login: %+v %v", login, err)
	}
	if info, err := c.Info(t.Context()); err != nil || info != (Info{"h", "t0k", "false"}) {
		t.Errorf("after login: %v %v", info, err)
	}
	if o := c.DialOptions("/ws/subscriber"); o.Token != "t0k" || o.Username != "" {
		t.Errorf("WebSocket credentials: %+v", o)
	}
	bad := newClient(t, mux, Options{Username: "admin"})
	if _, err := bad.Login(t.Context()); err == nil || err.Error() != "Failed to log in, 401 Unauthorized: Wrong credentials" {
		t.Errorf("wrong password: %v", err)
	}
}

// certificate writes a self-signed pair that serves as CA, server and client.
func certificate(t *testing.T) (cert, key string, pair tls.Certificate) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	if err := errors.Join(os.WriteFile(cert, certPEM, 0o600), os.WriteFile(key, keyPEM, 0o600)); err != nil {
		t.Fatal(err)
	}
	pair, err = tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, pair
}

func TestTLS(t *testing.T) {
	cert, key, pair := certificate(t)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"Host":"%d client certificates"}`, len(r.TLS.PeerCertificates))
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	defer s.Close()
	addr := s.Listener.Addr().String()
	for _, c := range []struct {
		o    Options
		want string // "" = works
	}{
		{Options{CACert: cert, Cert: cert, Key: key}, ""},
		{Options{Insecure: true, Cert: cert, Key: key}, ""},
		{Options{Cert: cert, Key: key}, "certificate"},  // system roots
		{Options{CACert: cert}, "certificate required"}, // TLS, and this server wants to see one
		{Options{}, "HTTP request to an HTTPS server"},
		{Options{Cert: cert}, "both"},
		{Options{CACert: "/nonexistent", Cert: cert, Key: key}, "/nonexistent"},
		{Options{CACert: key, Cert: cert, Key: key}, "no PEM certificate"},
		{Options{Cert: key, Key: cert}, "client certificate"},
	} {
		c.o.Analyzer = addr
		client, err := New(c.o)
		var info Info
		if err == nil {
			info, err = client.Info(t.Context())
		}
		if c.want == "" && (err != nil || info.Host != "1 client certificates") || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, %v, want %q", c.o, info, err, c.want)
		}
	}
}

func TestTimeout(t *testing.T) {
	hold := make(chan struct{})
	c := newClient(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold }), Options{Timeout: 50 * time.Millisecond})
	defer close(hold)
	if err := c.Status(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Status(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
