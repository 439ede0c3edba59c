package analyzer

import (
	"io"
	"slices"
	"strings"

	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// Namespaces and types of /ws/subscriber/flow. A namespace with a slash and the ID of a capture has the flows of that one.
const (
	feedFlows   = "flow"
	feedStats   = "stats"
	feedStore   = "store"
	feedCapture = feedFlows + "/"
)

// feed tells subscribers of flows.
type feed struct {
	*ws.Endpoint
	metrics *flowMetrics
}

func newFeed(o ws.EndpointOptions, m *flowMetrics) *feed {
	o.Connect = func(*ws.Conn) (ws.Session, error) { return listener{}, nil }
	return &feed{ws.NewEndpoint(o), m}
}

// listener is one subscriber; what it says is ignored.
type listener struct{}

func (listener) Receive(io.Reader) error { return nil }
func (listener) Closed(error)            {}

func (f *feed) listeners() int { return len(f.Conns()) }

// flows tells of a batch: to each subscriber once per namespace that it asked for; one that asked for none has all flows.
func (f *feed) flows(flows []*flow.Flow) {
	var all, captures []*ws.Conn
	for _, c := range f.Conns() {
		if c.Peer().Wants(feedFlows) {
			all = append(all, c)
		}
		if slices.ContainsFunc(c.Peer().Namespaces, func(n string) bool { return strings.HasPrefix(n, feedCapture) }) {
			captures = append(captures, c)
		}
	}
	if len(all)+len(captures) == 0 {
		return
	}
	// Each record is written once; a namespace is made of pieces of this text.
	text, ends := make([]byte, 0, 700*len(flows)), make([]int, len(flows))
	of := make(map[string][]int) // by capture
	for i, r := range flows {
		text = r.AppendJSON(text)
		ends[i] = len(text)
		of[r.CaptureID] = append(of[r.CaptureID], i)
	}
	obj := make([]byte, 0, len(text)+len(flows)+1)
	add := func(i int) {
		start := 0
		if i > 0 {
			start = ends[i-1]
		}
		sep := byte(',')
		if len(obj) == 0 {
			sep = '['
		}
		obj = append(append(obj, sep), text[start:ends[i]]...)
	}
	if len(all) > 0 {
		for i := range flows {
			add(i)
		}
		f.send(all, feedFlows, feedStore, append(obj, ']'))
	}
	if len(captures) == 0 {
		return
	}
	for capture, members := range of {
		namespace := feedCapture + capture
		var to []*ws.Conn
		for _, c := range captures {
			if slices.Contains(c.Peer().Namespaces, namespace) {
				to = append(to, c)
			}
		}
		if len(to) == 0 {
			continue
		}
		obj = make([]byte, 0, len(text)+len(members)+1)
		for _, i := range members {
			add(i)
		}
		f.send(to, namespace, feedStore, append(obj, ']'))
	}
}

// stats tells of the counters of a capture.
func (f *feed) stats(s *flow.Stats) {
	var to []*ws.Conn
	for _, c := range f.Conns() {
		if c.Peer().Wants(feedStats) {
			to = append(to, c)
		}
	}
	if len(to) > 0 {
		f.send(to, feedStats, feedStats, s.AppendJSON(nil))
	}
}

// send never waits: who does not keep up is disconnected.
func (f *feed) send(to []*ws.Conn, namespace, typ string, obj []byte) {
	m := wire.Message{Namespace: namespace, Type: typ, UUID: graph.NewID(), Status: 200, Obj: obj}
	var text, binary []byte
	for _, c := range to {
		if c.Peer().Binary() {
			if binary == nil {
				binary = m.Append(nil, wire.Protobuf)
			}
			_ = c.Send(binary) // an error means that the connection is over
			continue
		}
		if text == nil {
			text = m.Append(nil, wire.JSON)
		}
		_ = c.Send(text)
	}
	f.metrics.told.Add(float64(len(to)))
}
