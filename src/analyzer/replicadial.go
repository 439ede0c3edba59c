package analyzer

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"skydive/src/wire"
	"skydive/src/ws"
)

// replicaDial keeps up the connection to one address.
type replicaDial struct {
	r    *Replicas
	addr string
	o    ws.DialOptions

	mu     sync.Mutex // guards below
	host   string     // of the analyzer at addr; "" while it was never reached
	itself bool
	conn   *ws.Conn
	state  ws.State
	reason string
	since  time.Time
}

func newReplicaDial(r *Replicas, addr string) *replicaDial {
	o := r.o.Dial
	o.Addr, o.Path, o.HostID, o.ClientType, o.Protocol = addr, replicaPath, r.o.HostID, analyzerType, string(wire.JSON)
	o.Namespaces = []string{"*", wire.NamespaceReplica, processPrefix + r.process}
	return &replicaDial{r: r, addr: addr, o: o, state: ws.Connecting, since: time.Now()}
}

func (d *replicaDial) run(ctx context.Context) {
	for ctx.Err() == nil {
		pause := replicaPause + rand.N(replicaPause/2)
		conn, err := ws.Dial(ctx, d.o)
		var refused *ws.DialError
		switch {
		case errors.As(err, &refused) && (refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden || refused.Status == http.StatusTooManyRequests):
			pause *= refusedFactor
		case err == nil:
			err = d.keep(ctx, conn)
		}
		if ctx.Err() != nil {
			return
		}
		d.set(nil, ws.Failed, err)
		if errors.Is(err, errItself) {
			<-ctx.Done() // should the name come to mean another host, that one connects to here
			return
		}
		d.wait(ctx, pause)
	}
}

// keep runs a connection until it ends, and says why.
func (d *replicaDial) keep(ctx context.Context, conn *ws.Conn) error {
	host := conn.Peer().HostID
	d.mu.Lock()
	d.host = host
	d.mu.Unlock()
	var refused error
	err := conn.Run(ctx, func(c *ws.Conn) (ws.Session, error) {
		if host == d.r.o.HostID {
			return nil, nil // it says why that is
		}
		var s ws.Session
		if s, refused = d.r.join(c, true); refused != nil {
			return nil, refused
		}
		d.set(c, ws.Connected, nil)
		d.r.log.Info("Connected to analyzer", "analyzer", host, "addr", d.addr)
		return s, nil
	})
	var farewell ws.CloseError
	switch {
	case refused != nil:
		return refused
	case errors.As(err, &farewell) && farewell.Reason == errLinked.Error():
		return errLinked
	case errors.As(err, &farewell) && farewell.Reason == errItself.Error() && host == d.r.o.HostID:
		return errItself
	case err == nil:
		return errLinked // another link took its place
	}
	return err
}

// wait is until the next attempt: not while the host is connected by another link.
func (d *replicaDial) wait(ctx context.Context, pause time.Duration) {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return
	}
	for {
		d.mu.Lock()
		host, itself := d.host, d.itself
		d.mu.Unlock()
		d.r.mu.Lock()
		l := d.r.links[host]
		d.r.mu.Unlock()
		if l == nil || itself {
			return
		}
		select {
		case <-l.gone:
			d.mu.Lock()
			d.since, d.reason = time.Now(), "" // it was connected until now, by the other's link
			d.mu.Unlock()
		case <-ctx.Done():
			return
		}
		t.Reset(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// set notes the state, and logs a reason once, however often it repeats.
func (d *replicaDial) set(conn *ws.Conn, state ws.State, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	reason := ""
	itself := errors.Is(err, errItself)
	if err != nil {
		reason = err.Error()
	}
	if state == ws.Failed && !itself && !errors.Is(err, errLinked) && reason != d.reason {
		d.r.log.Warn("Not connected to analyzer, retrying", "addr", d.addr, "reason", reason)
	}
	if state != d.state {
		d.since = time.Now()
	}
	d.conn, d.state, d.reason = conn, state, reason
	d.itself = itself
}

// alone tells whether every address is known to be this analyzer itself, and nobody else has connected.
func (r *Replicas) alone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.links) > 0 {
		return false
	}
	for _, d := range r.dials {
		d.mu.Lock()
		itself := d.itself
		d.mu.Unlock()
		if !itself {
			return false
		}
	}
	return true
}

// Absent names the analyzers that are not connected, sorted: by host id, or by address when they never were.
func (r *Replicas) Absent() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var absent []string
	for _, d := range r.dials {
		d.mu.Lock()
		name, itself := d.host, d.itself || d.host == r.o.HostID
		d.mu.Unlock()
		if itself || r.links[name] != nil {
			continue
		}
		if name == "" {
			name = d.addr
		}
		if !slices.Contains(absent, name) {
			absent = append(absent, name)
		}
	}
	slices.Sort(absent)
	return absent
}

// itself lists the addresses at which this analyzer has found itself.
func (r *Replicas) itself() (addrs []string) {
	for _, d := range r.dials {
		d.mu.Lock()
		if d.itself {
			addrs = append(addrs, d.addr)
		}
		d.mu.Unlock()
	}
	return addrs
}

// locate notes where an analyzer is that has told so: it may be connected to this one, though it cannot be reached from here.
func (r *Replicas) locate(host string, addrs []string) {
	for _, d := range r.dials {
		if slices.Contains(addrs, d.addr) {
			d.mu.Lock()
			d.host = host
			d.mu.Unlock()
		}
	}
}
