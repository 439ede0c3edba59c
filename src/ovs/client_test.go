package ovs_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"skydive/src/ovs"
	"skydive/src/ovs/ovstest"
)

const smallSchema = `{"tables":{"Bridge":{"columns":{"name":{"type":"string"},"ports":{"type":{"key":"uuid","min":0,"max":"unlimited"}}}}}}`

// older answers as a server does that knows RFC 7047 only.
func older(method string, _ json.RawMessage) (result, fault any) {
	switch method {
	case "get_schema":
		return json.RawMessage(smallSchema), nil
	case "monitor":
		return json.RawMessage(`{"Bridge":{"b1":{"new":{"name":"br0","ports":["set",[]]}}}}`), nil
	case "transact":
		return json.RawMessage(`[{"count":1},{"error":"constraint violation","details":"no such column"},null]`), nil
	}
	return nil, map[string]string{"error": "unknown method"}
}

func TestAnOlderServer(t *testing.T) {
	server := ovstest.StartFake(t, older)
	c, batches, done := follow(t, ovs.Options{Address: server.DB}, ovs.Table{Name: "Bridge", Exclude: []string{"ports"}})
	if b := next(t, batches); !b.Initial || len(b.Changes) != 1 || b.Changes[0].New.Text("name") != "br0" {
		t.Fatalf("%+v", b)
	}
	server.Send(`{"id":null,"method":"update","params":["m",{"Bridge":{"b1":{"old":{"name":"br0"},"new":{"name":"br1"}}}}]}`)
	if b := next(t, batches); b.Initial || b.Changes[0].Old.Text("name") != "br0" || b.Changes[0].New.Text("name") != "br1" {
		t.Fatalf("%+v", b)
	}
	_, err := c.Transact(t.Context(), ovs.Delete("Bridge"), ovs.Comment("x"), ovs.Comment("y"))
	var refused *ovs.OperationError
	if !errors.As(err, &refused) || refused.Index != 1 || !strings.Contains(err.Error(), "operation 1: constraint violation: no such column") {
		t.Errorf("transaction: %v", err)
	}
	server.Hangup()
	if err := next(t, done); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after the end of the connection: %v", err)
	}
	if _, err := c.Transact(t.Context(), ovs.Delete("Bridge")); !errors.Is(err, ovs.ErrNotConnected) {
		t.Errorf("transaction without connection: %v", err)
	}
}

func TestWhatAServerSendsWrong(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":              `{"id":nil}`,
		"an array":             `[]`,
		"no object":            `HTTP/1.1 400 Bad Request`,
		"update of nothing":    `{"id":null,"method":"update2","params":[]}`,
		"update of a number":   `{"id":null,"method":"update2","params":["m",7]}`,
		"a row that is a list": `{"id":null,"method":"update","params":["m",{"Bridge":{"b1":{"new":[]}}}]}`,
		"monitor canceled":     `{"id":null,"method":"monitor_canceled","params":["m"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			server := ovstest.StartFake(t, older)
			_, batches, done := follow(t, ovs.Options{Address: server.DB}, ovs.Table{Name: "Bridge"})
			next(t, batches)
			// None of these mean anything to us.
			server.Send(`{"id":9999,"result":{},"error":null}{"id":"x","result":1}{"method":"stolen","params":["l"],"id":null}` +
				`{"id":null,"method":"update2","params":["other",{}]}`)
			server.Send(text)
			if err := next(t, done); err == nil {
				t.Error("the client goes on")
			}
		})
	}
}

func TestRefusedBeforeAnythingIsFollowed(t *testing.T) {
	for name, answer := range map[string]func(string, json.RawMessage) (any, any){
		"no database": func(string, json.RawMessage) (any, any) {
			return nil, map[string]string{"error": "unknown database", "details": "x"}
		},
		"odd error": func(string, json.RawMessage) (any, any) { return nil, 7 },
		"no schema": func(string, json.RawMessage) (any, any) { return []int{}, nil },
		"no monitor": func(method string, p json.RawMessage) (any, any) {
			if method == "get_schema" {
				return older(method, p)
			}
			return nil, map[string]string{"error": "unknown method"}
		},
		"no rows": func(method string, p json.RawMessage) (any, any) {
			if method == "get_schema" {
				return older(method, p)
			}
			return 7, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := ovstest.StartFake(t, answer)
			_, _, done := follow(t, ovs.Options{Address: server.DB}, ovs.Table{Name: "Bridge"})
			if err := next(t, done); err == nil {
				t.Error("the client goes on")
			}
		})
	}
}

func TestASilentServerIsAskedWhetherItLives(t *testing.T) {
	var echoes atomic.Int32
	alive := make(chan struct{}, 10)
	server := ovstest.StartFake(t, func(method string, p json.RawMessage) (any, any) {
		if method != "echo" {
			return older(method, p)
		}
		alive <- struct{}{}
		if echoes.Add(1) > 2 {
			return ovstest.NoAnswer{}, nil
		}
		return []int{}, nil
	})
	_, batches, done := follow(t, ovs.Options{Address: server.DB, Timeout: 50 * time.Millisecond}, ovs.Table{Name: "Bridge"})
	next(t, batches)
	next(t, alive)
	next(t, alive)
	if err := next(t, done); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("%v", err)
	}
	if echoes.Load() != 3 {
		t.Errorf("%d echo requests", echoes.Load())
	}
}

func TestTheServerIsToldThatWeLive(t *testing.T) {
	answered := make(chan string, 1)
	server := ovstest.StartFake(t, func(method string, p json.RawMessage) (any, any) {
		if method == "" {
			answered <- string(p)
		}
		return older(method, p)
	})
	_, batches, _ := follow(t, ovs.Options{Address: server.DB}, ovs.Table{Name: "Bridge"})
	next(t, batches)
	server.Send(`{"id":"echo","method":"echo","params":["are you there"]}`)
	if got := next(t, answered); got != `["are you there"]` {
		t.Errorf("answer %s", got)
	}
}

func TestATransactionWithoutAnswer(t *testing.T) {
	server := ovstest.StartFake(t, func(method string, p json.RawMessage) (any, any) {
		if method == "transact" {
			return ovstest.NoAnswer{}, nil
		}
		return older(method, p)
	})
	c, batches, _ := follow(t, ovs.Options{Address: server.DB}, ovs.Table{Name: "Bridge"})
	next(t, batches)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.Transact(ctx, ovs.Comment("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	failed := make(chan error, 1)
	go func() { _, err := c.Transact(context.Background(), ovs.Comment("x")); failed <- err }()
	server.Hangup()
	if err := next(t, failed); !errors.Is(err, ovs.ErrNotConnected) {
		t.Errorf("%v", err)
	}
}

func TestAnErrorOfTheHandlerEndsTheConnection(t *testing.T) {
	server := ovstest.StartFake(t, older)
	c := ovs.New(ovs.Options{Address: server.DB, Database: "x"})
	mine := errors.New("mine")
	c.Monitor(func(ovs.Batch) error { return mine }, ovs.Table{Name: "Bridge"})
	if err := c.Run(t.Context()); !errors.Is(err, mine) {
		t.Errorf("%v", err)
	}
}

func TestSeveralAddressesAreTriedInTurn(t *testing.T) {
	server := ovstest.StartFake(t, older)
	c := ovs.New(ovs.Options{Address: "unix:/nonexistent," + server.DB, Database: "x"})
	connected := errors.New("connected")
	c.Monitor(func(ovs.Batch) error { return connected }, ovs.Table{Name: "Bridge"})
	if err := c.Run(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("first: %v", err)
	}
	if err := c.Run(t.Context()); !errors.Is(err, connected) {
		t.Errorf("second: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	for text, path := range map[string]string{
		"unix:///run/db.sock": "/run/db.sock", "unix:/run/db.sock": "/run/db.sock", "unix:db.sock": "db.sock", "/run/db.sock": "/run/db.sock",
		"tcp://127.0.0.1:6640": "", "tcp:127.0.0.1:6640": "", "127.0.0.1:6640": "", "ssl:host:6640": "", "tls://[::1]:6640": "", "tcp:[::1]": "",
		"tcp:host": "", "tcp:a:1,tcp:b:1": "", "localhost": "",
	} {
		if err := ovs.CheckAddress(text); err != nil {
			t.Error(err)
		}
		if got, ok := ovs.SocketPath(text); got != path || ok != (path != "") {
			t.Errorf("%s: socket %q, %t", text, got, ok)
		}
	}
	for _, text := range []string{"", "unix:", "tcp:", "tcp://:6640", "host:", "http://host:80/", "nonsense:x:y", "tcp:a:1,", "ssl:a/b"} {
		if err := ovs.CheckAddress(text); err == nil {
			t.Errorf("%q is taken for an address", text)
		}
	}
}
