package agent

import (
	"context"
	"fmt"
	"io"
	"maps"
	"sync"

	"skydive/src/ws"
)

// flowPath is where analyzers take flows by WebSocket.
const flowPath = "/ws/agent/flow"

// socketWay sends binary messages over a connection of their own to each analyzer; TCP makes it wait where UDP would lose.
type socketWay struct {
	clients map[string]*ws.Client

	mu      sync.Mutex // guards below
	conns   map[string]*ws.Conn
	state   map[string]reach
	changed chan struct{}
}

// flowQueueBytes is what a connection takes beyond what the operating system does: what it holds when it breaks must be sent again.
const flowQueueBytes = 256 << 10

func newSocketWay(o FlowSenderOptions) *socketWay {
	w := &socketWay{clients: make(map[string]*ws.Client), conns: make(map[string]*ws.Conn), state: make(map[string]reach), changed: make(chan struct{})}
	dial := o.Dial
	dial.Path, dial.ClientType, dial.Protocol, dial.Logger = flowPath, "agent", "protobuf", o.Logger
	dial.Config.QueueBytes = flowQueueBytes
	for _, l := range o.Agent.links {
		dial.Addr = l.addr
		w.clients[l.addr] = ws.NewClient(ws.ClientOptions{DialOptions: dial, Connect: func(c *ws.Conn) (ws.Session, error) {
			w.set(l.addr, c, nil)
			return flowSession{w, l.addr}, nil
		}})
	}
	return w
}

// flowSession is one connection; analyzers send nothing over it.
type flowSession struct {
	w    *socketWay
	addr string
}

func (flowSession) Receive(io.Reader) error { return nil }
func (s flowSession) Closed(err error)      { s.w.set(s.addr, nil, err) }

func (w *socketWay) set(addr string, c *ws.Conn, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.state[addr]
	switch r.up = c != nil; {
	case abrupt(err):
		r.broken++
	case err != nil:
		r.left++
	}
	w.conns[addr], w.state[addr] = c, r
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *socketWay) run(ctx context.Context) {
	var running sync.WaitGroup
	for _, c := range w.clients {
		running.Go(func() { _ = c.Run(ctx) }) // returns only with ctx
	}
	running.Wait()
}

func (w *socketWay) reachable() (map[string]reach, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.state), w.changed
}

// send waits until all of b was written, for it is used again then.
func (w *socketWay) send(ctx context.Context, to string, b *block) error {
	w.mu.Lock()
	c := w.conns[to]
	w.mu.Unlock()
	if c == nil {
		return fmt.Errorf("send to %s: %w", to, ws.ErrClosed)
	}
	var err error
	for m := range b.messages {
		if err = c.SendWait(ctx, m); err != nil {
			break
		}
	}
	if err == nil {
		err = c.Flush(ctx)
	}
	if err != nil {
		b.stuck = true
		return fmt.Errorf("send to %s: %w", to, err)
	}
	return nil
}

// refusing is nobody: TCP tells at once.
func (w *socketWay) refusing() []string { return nil }

func (w *socketWay) close() {}
