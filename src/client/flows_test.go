package client

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"skydive/src/flow"
	"skydive/src/wire"
	"skydive/src/ws"
)

func TestQueryFlows(t *testing.T) {
	want := &flow.Flow{UUID: "u", Network: &flow.Layer{Protocol: flow.IPv6, A: "::1", B: "::2"}, Metric: flow.Metric{ABPackets: 3}}
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		if string(text) != `{"GremlinQuery":"G.Flows()"}` {
			t.Errorf("asked %s", text)
		}
		w.Write(append(want.AppendJSON([]byte{'['}), ']'))
	}), Options{})
	flows, err := c.QueryFlows(t.Context(), "G.Flows()")
	if err != nil || len(flows) != 1 || string(flows[0].AppendJSON(nil)) != string(want.AppendJSON(nil)) {
		t.Errorf("%v %v", flows, err)
	}
}

func TestFollowFlows(t *testing.T) {
	for capture, namespace := range map[string]string{"": "flow", "c1": "flow/c1"} {
		c, _ := newServer(t, "/ws/subscriber/flow", func(conn *ws.Conn) func(*wire.Message) error {
			if !slices.Equal(conn.Peer().Namespaces, []string{namespace}) {
				t.Errorf("namespaces are %q", conn.Peer().Namespaces)
			}
			for i := range 3 {
				batch := fmt.Sprintf(`[{"UUID":"a%d"},{"UUID":"b%d"}]`, i, i)
				for _, m := range []wire.Message{
					{Namespace: "stats", Type: "stats", Status: 200, Obj: []byte(`{"CaptureID":"x"}`)},
					{Namespace: namespace, Type: "store", Status: 200, Obj: []byte(batch)},
				} {
					if err := conn.Send(m.Append(nil, wire.JSON)); err != nil {
						t.Error(err)
					}
				}
			}
			return func(*wire.Message) error { return nil }
		})
		var got []string
		err := c.FollowFlows(t.Context(), capture, func(flows []*flow.Flow) error {
			for _, f := range flows {
				got = append(got, f.UUID)
			}
			if len(got) == 6 {
				return Stop
			}
			return nil
		})
		if err != nil || strings.Join(got, " ") != "a0 b0 a1 b1 a2 b2" {
			t.Errorf("capture %q: %v %v", capture, got, err)
		}
	}
	c, _ := newServer(t, "/ws/subscriber/flow", func(conn *ws.Conn) func(*wire.Message) error {
		m := wire.Message{Namespace: "flow", Type: "store", Status: 200, Obj: []byte(`{"UUID":"not a list"}`)}
		if err := conn.Send(m.Append(nil, wire.JSON)); err != nil {
			t.Error(err)
		}
		return func(*wire.Message) error { return nil }
	})
	if err := c.FollowFlows(t.Context(), "", func([]*flow.Flow) error { return errors.New("called") }); err == nil || !strings.Contains(err.Error(), "decode flows") {
		t.Errorf("what is no list of flows: %v", err)
	}
}

func TestCapturePackets(t *testing.T) {
	next := make(chan string)
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.EscapedPath() != "/api/capture/a%2Fb/pcapng" {
			http.Error(w, "Capture not found", http.StatusNotFound)
			return
		}
		for text := range next {
			io.WriteString(w, text)
			http.NewResponseController(w).Flush()
		}
	}), Options{})
	if _, err := c.CapturePackets(t.Context(), "x"); err == nil || err.Error() != "Failed to stream capture, 404 Not Found: Capture not found" {
		t.Errorf("unknown capture: %v", err)
	}
	if _, err := c.CapturePackets(t.Context(), ""); err == nil {
		t.Error("no id is accepted")
	}
	go func() { next <- "first" }()
	r, err := c.CapturePackets(t.Context(), "a/b")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]byte, 5)
	if _, err := io.ReadFull(r, got); err != nil || string(got) != "first" {
		t.Errorf("%q %v", got, err) // while the server goes on
	}
	next <- "last"
	close(next)
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "last" {
		t.Errorf("%q %v", rest, err)
	}
}
