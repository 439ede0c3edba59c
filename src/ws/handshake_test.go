package ws

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// vector is one line of testdata/handshake.jsonl, recorded from the public Skydive.
type vector struct {
	Path    string
	Headers [][2]string
	Status  int
	Note    string
	Then    []struct {
		Event string
		Code  int
	}
}

// Differences from the recording, all on purpose:
//   - close frames carry a reason, the recorded ones are empty;
//   - bodies of refusals are sentences for people, the recorded ones mostly empty;
//   - cookies also come with the 101, as the contract says;
//   - 426 names the protocol and version wanted (RFC 9110 §15.5.22).
//
// The Sync that greets a replication peer is not the transport's business.
func TestHandshakeVectors(t *testing.T) {
	mux := http.NewServeMux()
	metrics := NewMetrics(nil)
	endpoints := map[string]*Endpoint{}
	for _, path := range []string{"/ws/subscriber", "/ws/publisher", "/ws/pubsub", "/ws/agent/topology", "/ws/subscriber/flow", "/ws/replication"} {
		endpoints[path] = NewEndpoint(EndpointOptions{
			Path: path, HostID: "golden-analyzer", ServiceType: "analyzer", Metrics: metrics, Logger: slog.New(slog.DiscardHandler),
			Authenticate: func(*http.Request) (string, []*http.Cookie, error) {
				return "admin", []*http.Cookie{{Name: "permissions", Value: "W10=", Path: "/"}}, nil
			},
			Authorize: func(string, string) bool { return true },
			// What the owner of a subscriber endpoint refuses.
			Connect: func(c *Conn) (Session, error) {
				p := c.Peer()
				switch strings.ToLower(p.UpdatePolicy) {
				case "", "full", "partial":
				default:
					return nil, errors.New("unknown update policy")
				}
				if f := p.GremlinFilter; f != "" && f != "G" && !strings.HasSuffix(f, ".SubGraph()") {
					return nil, errors.New("not a graph")
				}
				return newInbox(c), nil
			},
		})
		mux.Handle(path, endpoints[path])
	}
	h := httptest.NewServer(mux)
	defer h.Close()
	addr := h.Listener.Addr().String()

	file, err := os.Open("testdata/handshake.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var vectors []vector
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var v vector
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		vectors = append(vectors, v)
	}
	if len(vectors) != 30 {
		t.Fatalf("%d vectors", len(vectors))
	}
	var open []*raw
	for i, v := range vectors {
		all := t
		t.Run(fmt.Sprint(i, v.Path, v.Note), func(t *testing.T) {
			if v.Note == "POST" {
				resp, err := http.Post(h.URL+v.Path, "", nil)
				if err != nil || resp.StatusCode != v.Status {
					t.Errorf("%v %v, want %d", resp, err, v.Status)
				}
				return
			}
			var headers strings.Builder
			if v.Headers != nil {
				headers.WriteString(upgrade)
			}
			for _, header := range v.Headers {
				fmt.Fprintf(&headers, "%s: %s\r\n", header[0], header[1])
			}
			c := dialRaw(all, addr, v.Path, headers.String())
			if c.resp.StatusCode != v.Status {
				t.Fatalf("status %d, want %d", c.resp.StatusCode, v.Status)
			}
			if v.Status == http.StatusConflict || v.Status == http.StatusUpgradeRequired {
				if !c.resp.Close || c.resp.Header.Get("Set-Cookie") == "" {
					t.Errorf("Connection: close and the cookies are missing: %v", c.resp.Header)
				}
			}
			if v.Status != http.StatusSwitchingProtocols {
				return
			}
			if c.resp.Header.Get("X-Host-ID") != "golden-analyzer" || c.resp.Header.Get("X-Service-Type") != "analyzer" {
				t.Errorf("headers %v", c.resp.Header)
			}
			open = append(open, c)
			if len(v.Then) == 0 || v.Then[0].Event != "close" {
				e := endpoints[strings.SplitN(v.Path, "?", 2)[0]]
				eventually(t, "connection is accepted", func() bool { return len(e.Conns()) > 0 })
				c.send(opPing, true, "are you there")
				if op, payload := c.next(t); op != 0xa {
					t.Errorf("opcode %d %q, want a pong", op, payload)
				}
				return
			}
			if op, payload := c.next(t); op != opClose || closeCode(payload) != v.Then[0].Code || len(payload) == 2 {
				t.Errorf("opcode %d %q, want close %d with a reason", op, payload, v.Then[0].Code)
			}
		})
		if i+1 < len(vectors) && !strings.Contains(vectors[i+1].Note, "still open") {
			for _, c := range open {
				c.Close()
			}
			open = nil
			for _, e := range endpoints {
				eventually(t, "host ids are free", func() bool { return e.idle() })
			}
		}
	}
}

func (e *Endpoint) idle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.taken) == 0
}

func TestConflictNamesTheOther(t *testing.T) {
	s := newServer(t, nil)
	first := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: agent\r\nX-Host-ID: h1\r\n")
	wait(t, s.inboxes, "connection")
	_, err := Dial(t.Context(), DialOptions{Addr: s.addr, Path: s.Path(), HostID: "h1", ClientType: "agent"})
	var refused *DialError
	if !errors.As(err, &refused) || refused.Status != http.StatusConflict || !strings.Contains(err.Error(), "409 Conflict") || !strings.Contains(err.Error(), first.LocalAddr().String()) {
		t.Errorf("got %v, want a 409 that names %s", err, first.LocalAddr())
	}
	if n := value(t, s.metrics.refusals.WithLabelValues(s.Path(), "duplicate")); n != 1 {
		t.Errorf("refusals = %v", n)
	}
}

// A client may close and come back at once under the same name.
func TestComeBackAtOnce(t *testing.T) {
	s := newServer(t, nil)
	for i := range 50 {
		client, ended := s.dial(t, func(o *DialOptions) { o.HostID = "h1" })
		served := wait(t, s.inboxes, "connection")
		if i%2 == 0 {
			client.conn.Close(StatusNormal, "")
		} else {
			served.conn.Close(StatusGoingAway, "")
		}
		<-ended
	}
}

func TestMissingHostID(t *testing.T) {
	s := newServer(t, nil)
	c := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: tool\r\n")
	if p := wait(t, s.inboxes, "connection").conn.Peer(); p.HostID != c.LocalAddr().String() {
		t.Errorf("host id %q, want the remote address %s", p.HostID, c.LocalAddr())
	}
}

func TestNamespaces(t *testing.T) {
	s := newServer(t, nil)
	for _, c := range []struct {
		path, headers string
		wants, not    string
	}{
		{"", "", "Graph", ""},
		{"", "X-Websocket-Namespace: Alert\r\nX-Websocket-Namespace: flow/1\r\n", "flow/1", "flow/2"},
		{"?x-websocket-namespace=Alert&x-websocket-namespace=stats", "", "stats", "Graph"},
		{"", "X-Websocket-Namespace: *\r\n", "Graph", ""},
	} {
		dialRaw(t, s.addr, s.Path()+c.path, upgrade+"X-Client-Type: tool\r\n"+c.headers)
		p := wait(t, s.inboxes, "connection").conn.Peer()
		if !p.Wants(c.wants) || c.not != "" && p.Wants(c.not) {
			t.Errorf("%s%s: namespaces %q", c.path, c.headers, p.Namespaces)
		}
	}
}

// basic knows admin/pass by Authorization, cookie, X-Auth-Token and query.
func basic(r *http.Request) (string, []*http.Cookie, error) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Basic ")
	if cookie, err := r.Cookie("authtoken"); err == nil {
		token = cookie.Value
	}
	if v := r.Header.Get("X-Auth-Token"); v != "" {
		token = v
	}
	if v := r.URL.Query().Get("x-auth-token"); v != "" {
		token = v
	}
	switch token {
	case "YWRtaW46cGFzcw==":
		return "admin", nil, nil
	case "Ym9iOnNlY3JldDI=":
		return "bob", nil, nil
	}
	return "", nil, errors.New("Wrong credentials")
}

func TestAuthentication(t *testing.T) {
	s := newServer(t, func(o *EndpointOptions) {
		o.Authenticate = basic
		o.Authorize = func(user, path string) bool { return user == "admin" && path == "/ws/test" }
	})
	const admin, bob = "YWRtaW46cGFzcw==", "Ym9iOnNlY3JldDI="
	own, foreign := "Origin: http://"+s.addr+"\r\n", "Origin: https://evil.example\r\n"
	for _, c := range []struct {
		name, query, headers string
		status               int
		body                 string
	}{
		{"none", "", "", 401, "Wrong credentials"},
		{"bad password", "", "Authorization: Basic eDp5\r\n", 401, "Wrong credentials"},
		{"authorization", "", "Authorization: Basic " + admin + "\r\n", 101, ""},
		{"token header", "", "X-Auth-Token: " + admin + "\r\n", 101, ""},
		{"query", "?x-auth-token=" + admin, "", 101, ""},
		{"cookie of a program", "", "Cookie: authtoken=" + admin + "\r\n", 101, ""},
		{"cookie, same site", "", own + "Cookie: authtoken=" + admin + "\r\n", 101, ""},
		{"cookie, same site behind a proxy", "", "Origin: https://sky.example\r\nX-Forwarded-Host: sky.example\r\nCookie: authtoken=" + admin + "\r\n", 101, ""},
		{"cookie, other site", "", foreign + "Cookie: authtoken=" + admin + "\r\n", 403, "origin https://evil.example needs an explicit token: Wrong credentials"},
		{"cookie, opaque origin", "", "Origin: null\r\nCookie: authtoken=" + admin + "\r\n", 403, "origin null needs an explicit token: Wrong credentials"},
		{"token, other site", "?x-auth-token=" + admin, foreign, 101, ""},
		{"cookie and token, other site", "?x-auth-token=" + admin, foreign + "Cookie: authtoken=bad\r\n", 101, ""},
		{"not allowed", "", "Authorization: Basic " + bob + "\r\n", 403, "'bob' has no permission on '/ws/test'"},
		{"not allowed, no upgrade", "", "X-Not-Upgrade: 1\r\nAuthorization: Basic " + bob + "\r\n", 403, "'bob' has no permission on '/ws/test'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := dialRaw(t, s.addr, s.Path()+c.query, upgrade+"X-Client-Type: tool\r\n"+c.headers)
			if raw.resp.StatusCode != c.status {
				t.Fatalf("status %d, want %d", raw.resp.StatusCode, c.status)
			}
			if c.status == 101 {
				return
			}
			body := make([]byte, len(c.body)+1)
			n, _ := raw.resp.Body.Read(body)
			if string(body[:n]) != c.body {
				t.Errorf("body %q", body[:n])
			}
		})
	}
}

func TestNewEndpointNeedsEnforcers(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("an endpoint without Authorize was made")
		}
	}()
	NewEndpoint(EndpointOptions{
		Authenticate: basic, Connect: func(*Conn) (Session, error) { return nil, nil },
		Metrics: NewMetrics(nil), Logger: slog.New(slog.DiscardHandler),
	})
}

// The JSON of /api/status (contract: ConnStatus).
func TestStatusJSON(t *testing.T) {
	s := newServer(t, nil)
	client, _ := s.dial(t, func(o *DialOptions) { o.HostID, o.ClientType, o.Protocol = "h1", "agent", "protobuf" })
	wait(t, s.inboxes, "connection")
	eventually(t, "peer is listed", func() bool { return len(s.Status()) == 1 })
	check := func(status ConnStatus, want map[string]any) {
		t.Helper()
		b, _ := json.Marshal(status)
		var got map[string]any
		if err := json.Unmarshal(b, &got); err != nil {
			t.Fatal(err)
		}
		for key, value := range want {
			if got[key] != value {
				t.Errorf("%s = %v, want %v in %s", key, got[key], value, b)
			}
		}
	}
	check(s.Status()["h1"], map[string]any{
		"ServiceType": "agent", "ClientProtocol": "protobuf", "Addr": "127.0.0.1", "IsConnected": true, "RemoteHost": "h1", "RemoteServiceType": nil, "State": "connected",
	})
	check(client.conn.Status(), map[string]any{
		"ServiceType": "agent", "Addr": "127.0.0.1", "IsConnected": true, "RemoteHost": "me", "RemoteServiceType": "analyzer",
	})
}

// Somebody who is refused is worth a line in the log, not one for each attempt.
func TestRefusalsAreLoggedSparingly(t *testing.T) {
	var log lockedBuffer
	s := newServer(t, func(o *EndpointOptions) {
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		o.Authenticate = func(*http.Request) (string, []*http.Cookie, error) { return "", nil, errors.New("Wrong credentials") }
	})
	for range 5 {
		if c := dialRaw(t, s.addr, s.Path(), upgrade+"X-Client-Type: agent\r\nX-Host-ID: stranger\r\n"); c.resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("status %d", c.resp.StatusCode)
		}
	}
	text := log.String()
	if strings.Count(text, "level=WARN") != 1 || !strings.Contains(text, "host=stranger") || !strings.Contains(text, "Wrong credentials") {
		t.Errorf("want one warning that says who and why:\n%s", text)
	}
}
