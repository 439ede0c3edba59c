package analyzer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"skydive/src/graph"
	"skydive/src/wire"
	"skydive/src/ws"
)

// ErrNoAgent tells that no agent of a host is connected.
var ErrNoAgent = errors.New("no agent of this host is connected")

// questions are the requests that wait for their reply.
type questions struct {
	mu   sync.Mutex // guards open
	open map[question]chan<- *wire.Message
}

// question is what a reply must match: only who was asked may answer.
type question struct {
	conn *ws.Conn
	uuid string
}

func (q *questions) add(k question) (reply <-chan *wire.Message, done func()) {
	c := make(chan *wire.Message, 1)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open == nil {
		q.open = make(map[question]chan<- *wire.Message)
	}
	q.open[k] = c
	return c, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.open, k)
	}
}

// take hands a reply to who waits for it, and tells whether anybody does.
func (q *questions) take(c *ws.Conn, m *wire.Message) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	k := question{c, m.UUID}
	reply := q.open[k]
	if reply == nil {
		return false
	}
	delete(q.open, k) // the second of two replies finds nobody
	reply <- m
	return true
}

// Hosts names the hosts whose agents are connected, sorted.
func (a *Agents) Hosts() []string {
	var hosts []string
	for _, c := range a.Conns() {
		if p := c.Peer(); p.ServiceType == agentType {
			hosts = append(hosts, p.HostID)
		}
	}
	slices.Sort(hosts)
	return hosts
}

// Request asks the agent of a host and waits for its reply, as long as ctx allows; whatever Status the reply has is for the caller to
// look at. A UUID is made up when m has none. The error wraps ErrNoAgent when the agent is not connected, or goes before it answers.
func (a *Agents) Request(ctx context.Context, host string, m *wire.Message) (*wire.Message, error) {
	c, err := a.agent(host)
	if err != nil {
		return nil, err
	}
	return ask(ctx, &a.questions, c, m)
}

// agent returns the connection of a host's agent.
func (a *Agents) agent(host string) (*ws.Conn, error) {
	if c := a.Conn(host); c != nil && c.Peer().ServiceType == agentType {
		return c, nil
	}
	return nil, fmt.Errorf("host %s: %w", host, ErrNoAgent)
}

// ask sends m and waits for what answers it.
func ask(ctx context.Context, q *questions, c *ws.Conn, m *wire.Message) (*wire.Message, error) {
	request, host := *m, c.Peer().HostID
	if request.UUID == "" {
		request.UUID = graph.NewID()
	}
	if request.Status == 0 {
		request.Status = 200
	}
	protocol := wire.JSON
	if c.Peer().Binary() {
		protocol = wire.Protobuf
	}
	reply, done := q.add(question{c, request.UUID})
	defer done()
	if err := c.SendWait(ctx, request.Append(nil, protocol)); errors.Is(err, ws.ErrClosed) {
		return nil, fmt.Errorf("host %s: %w: it has just left", host, ErrNoAgent)
	} else if err != nil {
		return nil, fmt.Errorf("ask host %s: %w", host, err)
	}
	select {
	case m := <-reply:
		return m, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("host %s does not answer: %w", host, context.Cause(ctx))
	case <-c.Done():
	}
	select {
	case m := <-reply: // its last words
		return m, nil
	default:
		return nil, fmt.Errorf("host %s: %w: it left before it answered", host, ErrNoAgent)
	}
}
