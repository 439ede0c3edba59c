package ovstest

import (
	"encoding/json"
	"net"
	"os"
	"sync"
	"testing"
)

// Fake is an OVSDB server that answers as told, for what a real one does not do.
type Fake struct {
	DB string // address: unix:…

	listener net.Listener
	answer   func(method string, params json.RawMessage) (result, fault any)
	mu       sync.Mutex
	conns    []net.Conn
}

// NoAnswer as result makes the server keep quiet.
type NoAnswer struct{}

// StartFake starts a server that answers each request with what answer returns, until the test ends.
func StartFake(t testing.TB, answer func(method string, params json.RawMessage) (result, fault any)) *Fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "ovs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f := &Fake{DB: "unix:" + dir + "/db.sock", answer: answer}
	if f.listener, err = net.Listen("unix", dir+"/db.sock"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := f.listener.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, conn)
			f.mu.Unlock()
			wg.Go(func() { f.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = f.listener.Close()
		f.Hangup()
		wg.Wait()
	})
	return f
}

// Hangup ends all connections.
func (f *Fake) Hangup() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, conn := range f.conns {
		_ = conn.Close()
	}
	f.conns = nil
}

func (f *Fake) serve(conn net.Conn) {
	defer conn.Close()
	dec := json.NewDecoder(conn)
	for {
		var m struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
			Params json.RawMessage `json:"params"`
			Result json.RawMessage `json:"result"`
		}
		if dec.Decode(&m) != nil {
			return
		}
		if m.Method == "" { // an answer
			f.answer("", m.Result)
			continue
		}
		result, fault := f.answer(m.Method, m.Params)
		if _, quiet := result.(NoAnswer); quiet {
			continue
		}
		data, err := json.Marshal(map[string]any{"id": m.ID, "result": result, "error": fault})
		if err != nil {
			return
		}
		if _, err := conn.Write(data); err != nil {
			return
		}
	}
}

// Send sends text to all clients.
func (f *Fake) Send(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, conn := range f.conns {
		_, _ = conn.Write([]byte(text)) // one that hung up hears nothing
	}
}
