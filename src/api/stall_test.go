package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"skydive/src/graph"
	"skydive/src/query"
)

// pipes is a listener for connections within a bubble of synctest.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// inBubble runs f against a server, in time that passes only when everybody waits.
func inBubble(t *testing.T, edit func(*Options), f func(t *testing.T, s *Server, conn net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{Service: "analyzer", Auth: stubAuth{}, RBAC: stubAuth{}, Log: quiet(), Graph: graph.New(graph.Options{})}
		edit(&o)
		s, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		l := &pipes{make(chan net.Conn), make(chan struct{})}
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, l) }()
		here, there := net.Pipe()
		l.conns <- there
		f(t, s, here)
		here.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestBodyThatNeverComes(t *testing.T) {
	inBubble(t, func(*Options) {}, func(t *testing.T, _ *Server, conn net.Conn) {
		began := time.Now()
		fmt.Fprint(conn, "POST /api/topology HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil && resp.StatusCode != http.StatusBadRequest {
			t.Error(resp.Status)
		}
		if took := time.Since(began); took > stallTimeout+time.Second {
			t.Errorf("waited %v", took)
		}
	})
}

// slow answers after a time that no client would stall for.
type slow struct{ endless }

func (slow) Graph(ctx context.Context, _, _ time.Time) ([]*graph.Node, []*graph.Edge, error) {
	select {
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-time.After(10 * stallTimeout):
		return nil, nil, nil
	}
}

func TestSlowQueryIsNotAStall(t *testing.T) {
	edit := func(o *Options) {
		g := o.Graph
		o.Source = func() query.Source { return query.Source{Graph: g.Snapshot(), History: slow{}} }
	}
	inBubble(t, edit, func(t *testing.T, _ *Server, conn net.Conn) {
		fmt.Fprintf(conn, "POST /api/topology HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(timeQuery), timeQuery)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "[]\n" {
			t.Errorf("%s %q %v", resp.Status, body, err)
		}
	})
}

func TestReaderThatStops(t *testing.T) {
	inBubble(t, func(*Options) {}, func(t *testing.T, s *Server, conn net.Conn) {
		ended := make(chan time.Duration, 1)
		s.handle("GET /large", func(w http.ResponseWriter, _ *http.Request) error {
			began := time.Now()
			defer func() { ended <- time.Since(began) }()
			for {
				if _, err := io.WriteString(w, strings.Repeat("x", 1<<20)); err != nil {
					return err
				}
			}
		})
		fmt.Fprint(conn, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := io.ReadFull(conn, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if took := <-ended; took > 2*stallTimeout {
			t.Errorf("written to for %v", took)
		}
	})
}
