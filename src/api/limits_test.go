package api

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"skydive/src/ws"
)

// cut reads until the server ends the connection, and returns what came before and how long that took.
func cut(t *testing.T, conn net.Conn) (string, time.Duration) {
	t.Helper()
	began := time.Now()
	got, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	return string(got), time.Since(began)
}

// Whatever a client leaves unfinished, its connection does not stay.
func TestConnectionsThatDoNotGetOn(t *testing.T) {
	socket := ws.NewEndpoint(ws.EndpointOptions{
		Path: "/ws/subscriber", HostID: "me", ServiceType: "analyzer", Metrics: ws.NewMetrics(nil), Logger: quiet(),
		Authenticate: func(*http.Request) (string, []*http.Cookie, error) {
			return "", nil, errors.New("No credentials provided")
		},
		Authorize: func(string, string) bool { return false },
		Connect:   func(*ws.Conn) (ws.Session, error) { return nil, errors.New("nobody") },
	})
	const body = "Host: x\r\nContent-Length: 100\r\n\r\n{"
	for _, c := range []struct {
		name, sent string
		limit      time.Duration
		status     string // first, "" when nothing is answered
	}{
		{"nothing at all", "", headerTimeout, ""},
		{"a request line", "GET /api HTTP/1.1\r\n", headerTimeout, ""},
		{"half a header", "GET /api HTTP/1.1\r\nHost: x\r\nX-Long: ", headerTimeout, ""},
		{"after an answer", "GET /api HTTP/1.1\r\nHost: x\r\n\r\n", idleTimeout, "200"},
		{"the body of a query", "POST /api/topology HTTP/1.1\r\n" + body, stallTimeout, "400"},
		{"the body of a login", "POST /login HTTP/1.1\r\n" + body, stallTimeout, ""},
		{"a form", "POST /login HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\n" + body, stallTimeout, "400"},
		{"a body that is not asked for", "GET /api/status HTTP/1.1\r\n" + body, stallTimeout + idleTimeout, ""},
		{"the body of an unknown path", "POST /nothing HTTP/1.1\r\n" + body, stallTimeout + idleTimeout, ""},
		{"the body of a page that is elsewhere", "PUT /login HTTP/1.1\r\n" + body, stallTimeout + idleTimeout, ""},
		{"the body of a handshake", "POST /ws/subscriber HTTP/1.1\r\n" + body, stallTimeout + idleTimeout, ""},
		{"a chunk", "POST /api/topology HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", stallTimeout, "400"},
		{"the body of a preflight", "OPTIONS /api HTTP/1.1\r\n" + body, stallTimeout + idleTimeout, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			edit := func(o *Options) { o.Sockets = map[string]http.Handler{socket.Path(): socket} }
			inBubble(t, edit, func(t *testing.T, _ *Server, conn net.Conn) {
				go io.WriteString(conn, c.sent) // a pipe holds nothing
				got, took := cut(t, conn)
				if took > c.limit+2*time.Second {
					t.Errorf("it lasted %v, more than %v", took, c.limit)
				}
				if c.status != "" && !strings.HasPrefix(got, "HTTP/1.1 "+c.status) {
					t.Errorf("answered %q", got)
				}
			})
		})
	}
}

// A byte now and then is not getting on.
func TestTricklingClients(t *testing.T) {
	for name, c := range map[string]struct {
		first string
		limit time.Duration
	}{
		"header": {"GET /api HTTP/1.1\r\nHost: x\r\nX-Long: ", headerTimeout},
		"body":   {"POST /api/topology HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{", stallTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(*Options) {}, func(t *testing.T, _ *Server, conn net.Conn) {
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					tick := time.NewTicker(time.Second)
					defer tick.Stop()
					_, err := io.WriteString(conn, c.first)
					for ; err == nil; _, err = io.WriteString(conn, "x") {
						<-tick.C
					}
				}()
				if _, took := cut(t, conn); took > c.limit+2*time.Second {
					t.Errorf("it lasted %v", took)
				}
				<-ended
			})
		})
	}
}

func TestTLSHandshakeThatNeverComes(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	for name, sent := range map[string]string{"nothing": "", "half a record": "\x16\x03\x01\x02\x00\x01"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newOpen(t, func(*Options) {})
				ctx, cancel := context.WithCancel(t.Context())
				l := &pipes{make(chan net.Conn), make(chan struct{})}
				done := make(chan error, 1)
				go func() { done <- s.Run(ctx, tls.NewListener(l, config)) }()
				here, there := net.Pipe()
				l.conns <- there
				go io.WriteString(here, sent)
				if _, took := cut(t, here); took > headerTimeout+2*time.Second {
					t.Errorf("it lasted %v", took)
				}
				here.Close()
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestSizeOfRequests(t *testing.T) {
	s := newServer(t, nil, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own := newOpen(t, func(*Options) {})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- own.Run(ctx, l) }() // it is the server's own limits that count
	defer func() { cancel(); <-done }()
	s.URL = "http://" + l.Addr().String()
	large := strings.Repeat("x", 2*maxHeader)
	for _, c := range []struct {
		name, method, path, body, header string
		want                             int
	}{
		{"a header", "GET", "/api", "", "X-Large: " + large, http.StatusRequestHeaderFieldsTooLarge},
		{"a token", "GET", "/api", "", "X-Auth-Token: " + large, http.StatusRequestHeaderFieldsTooLarge},
		{"a path", "GET", "/" + large, "", "", http.StatusRequestHeaderFieldsTooLarge},
		{"a body", "POST", "/api/topology", strings.Repeat(" ", maxBody+1), "", http.StatusRequestEntityTooLarge},
		{"a form", "POST", "/login", "username=" + strings.Repeat("x", maxBody), "Content-Type: application/x-www-form-urlencoded", http.StatusRequestEntityTooLarge},
		{"a usual one", "GET", "/api", "", "X-Auth-Token: " + strings.Repeat("x", 8<<10), http.StatusOK},
	} {
		headers := []string{}
		if c.header != "" {
			headers = append(headers, c.header)
		}
		if resp, body := s.do(t, c.method, c.path, c.body, headers...); resp.StatusCode != c.want {
			t.Errorf("%s: %s %.100s", c.name, resp.Status, body)
		}
	}
	// Many small headers are no way round it.
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		fmt.Fprint(conn, "GET /api HTTP/1.1\r\nHost: x\r\n")
		for i := range 100_000 {
			if _, err := fmt.Fprintf(conn, "X-%d: 1\r\n", i); err != nil {
				return
			}
		}
	}()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Error(resp, err)
	}
}

// Cookies that a browser adds to what a page of another origin asks for do not count.
func TestCookiesOfOtherOrigins(t *testing.T) {
	s := newServer(t, map[string]string{"alice": "p"}, func(o *Options) { o.Store = failing{errors.New("reached")} })
	resp, _ := s.do(t, "POST", "/login", "username=alice&password=p", "Content-Type: application/x-www-form-urlencoded")
	cookie := ""
	for _, c := range resp.Cookies() {
		if c.Name == "authtoken" {
			cookie = "Cookie: " + c.Name + "=" + c.Value
		}
	}
	if cookie == "" {
		t.Fatal(resp)
	}
	host := strings.TrimPrefix(s.URL, "http://")
	for _, c := range []struct {
		name    string
		method  string
		headers []string
		want    int
	}{
		{"a program", "POST", nil, 200},
		{"our page", "POST", []string{"Origin: http://" + host, "Sec-Fetch-Site: same-origin"}, 200},
		{"our page, no Sec-Fetch-Site over http", "POST", []string{"Origin: http://" + host}, 200},
		{"our page behind a proxy", "POST", []string{"Origin: https://skydive.example", "X-Forwarded-Host: skydive.example"}, 200},
		{"typed into the browser", "GET", []string{"Sec-Fetch-Site: none"}, 200},
		{"a link on another site", "GET", []string{"Sec-Fetch-Site: cross-site"}, 200},
		{"another site", "POST", []string{"Origin: http://evil.example", "Sec-Fetch-Site: cross-site"}, 401},
		{"another site, old browser", "POST", []string{"Origin: http://evil.example"}, 401},
		{"another port of this host", "POST", []string{"Origin: http://127.0.0.1:1", "Sec-Fetch-Site: same-site"}, 401},
		{"a form without an origin", "POST", []string{"Sec-Fetch-Site: cross-site"}, 401},
		{"a sandbox", "POST", []string{"Origin: null"}, 401},
		{"another site reads", "GET", []string{"Origin: http://evil.example", "Sec-Fetch-Site: cross-site"}, 401},
		{"another site that knows a token", "POST", []string{"Origin: http://dashboard.example", "Sec-Fetch-Site: cross-site", "X-Auth-Token: YWxpY2U6cA=="}, 200},
	} {
		body := ""
		if c.method == "POST" {
			body = `{"GremlinQuery":"G.V()"}`
		}
		if resp, text := s.do(t, c.method, "/api/topology", body, append(c.headers, cookie)...); resp.StatusCode != c.want {
			t.Errorf("%s: %s %s", c.name, resp.Status, text)
		}
	}
}
