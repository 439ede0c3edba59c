package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/v3"
)

// elections is where the offices are: the value of elections+name is the id of whoever holds it.
const elections = "/elections/"

// termSeconds is how long an office outlives its holder's last sign of life. With the election of a new etcd leader, when that died with
// it, a killed holder is replaced in less than 10 s. A server that ticks slowly grants no less than 8.
const termSeconds = 5

// soloTermSeconds is the same where nobody else can take part: each renewal wakes the processor.
const soloTermSeconds = 30

// releaseGrace is how long the holders of offices may take to give them back when the service ends.
const releaseGrace = 200 * time.Millisecond

// term is a time during which this process may hold offices: a lease that is being renewed. It has ended, for whoever relies on it, well
// before the lease has.
type term struct {
	lease clientv3.LeaseID
	over  <-chan struct{}
	ctx   context.Context // done when it is over
	end   context.CancelFunc
}

func newTerm(lease clientv3.LeaseID) *term {
	ctx, end := context.WithCancel(context.Background())
	return &term{lease, ctx.Done(), ctx, end}
}

// terms is the one term that all offices of a Service share.
type terms struct {
	wanted chan struct{} // somebody runs for an office; holds one
	users  sync.WaitGroup

	mu      sync.Mutex
	ending  bool
	now     *term         // nil when there is none
	changed chan struct{} // closed when now changes
}

func newTerms() *terms { return &terms{wanted: make(chan struct{}, 1), changed: make(chan struct{})} }

// join counts a user until leave; false when the service ends.
func (t *terms) join() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ending {
		return false
	}
	t.users.Add(1)
	select {
	case t.wanted <- struct{}{}:
	default:
	}
	return true
}

func (t *terms) set(now *term) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now != nil {
		t.now.end()
	}
	t.now = now
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *terms) current() (now *term, changed <-chan struct{}, ending bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now, t.changed, t.ending
}

// end makes everybody leave, and waits a little until they have.
func (t *terms) end() {
	t.mu.Lock()
	t.ending = true
	t.mu.Unlock()
	t.set(nil)
	gone := make(chan struct{})
	go func() { defer close(gone); t.users.Wait() }()
	select {
	case <-gone:
	case <-time.After(releaseGrace):
	}
}

// keepTerm renews the lease under which offices are held, once there is somebody who runs for one, until ctx ends. A term ends when no
// renewal that was sent in its first three quarters succeeded: nobody else can have the offices before the rest has passed, too.
func (s *Service) keepTerm(ctx context.Context, c *clientv3.Client) {
	select {
	case <-ctx.Done():
		return
	case <-s.terms.wanted:
	}
	length := int64(termSeconds)
	if s.cfg.solo() {
		length = soloTermSeconds
	}
	var now *term
	var over time.Time // of now
	var lease clientv3.LeaseID
	defer func() {
		s.terms.end()
		if lease != 0 {
			// All that is still held under it goes with it.
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseGrace)
			defer cancel()
			_, _ = c.Revoke(end, lease) // else it ends by itself
		}
	}()
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		sent := time.Now()
		limit := time.Duration(length) * time.Second / 4
		if now != nil {
			limit = min(limit, max(0, over.Sub(sent)))
		}
		try, cancel := context.WithTimeout(ctx, limit)
		id, seconds, err := renew(try, c, lease, length)
		cancel()
		ttl := time.Duration(seconds) * time.Second
		switch {
		case err == nil:
			over = sent.Add(ttl * 3 / 4)
			s.lost.Store(nil)
			if now == nil || lease != id {
				now = newTerm(id)
				s.terms.set(now)
			}
			lease = id
			next.Reset(time.Until(sent.Add(ttl / 4)))
			continue
		case ctx.Err() != nil:
			return
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			lease, over = 0, sent
		}
		if now != nil && !time.Now().Before(over) {
			s.opts.Log.Warn("etcd: no contact: offices are given up until it is back", "error", err)
			now = nil
			s.lost.Store(&sent)
			s.terms.set(nil)
		}
		wait := 250 * time.Millisecond
		if now != nil {
			wait = min(wait, max(0, time.Until(over)))
		}
		next.Reset(wait)
	}
}

// renew renews a lease, or grants one when there is none.
func renew(ctx context.Context, c *clientv3.Client, lease clientv3.LeaseID, length int64) (clientv3.LeaseID, int64, error) {
	if lease == 0 {
		r, err := c.Grant(ctx, length)
		if err != nil {
			return 0, 0, err
		}
		return r.ID, r.TTL, nil
	}
	r, err := c.KeepAliveOnce(ctx, lease)
	if err != nil {
		return 0, 0, err
	}
	return lease, r.TTL, nil
}

// Elect takes part in an election until ctx ends: at any time one of all that take part, in any process, leads. fn is told when id
// begins to lead and when it no longer does, by one goroutine, in turn, and should be quick. When contact to etcd is lost fn(false) comes
// before anybody else can lead. What id held in an earlier life it has back at once.
func (s *Service) Elect(ctx context.Context, election, id string, fn func(leading bool)) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.ready:
	}
	if !s.terms.join() {
		return nil
	}
	defer s.terms.users.Done()
	o := &office{s: s, key: elections + election, id: id, fn: fn, changed: make(chan struct{}, 1), inherit: true}
	watching, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		_ = s.Watch(watching, o.key, func(e Event) { // fails only with the service, and terms end then
			if e.Key == o.key || e.Synced {
				select {
				case o.changed <- struct{}{}:
				default:
				}
			}
		})
	}()
	o.run(ctx)
	cancel()
	<-watched
	return nil
}

// office is one election as one of those who take part sees it.
type office struct {
	s       *Service
	key, id string
	fn      func(bool)
	changed chan struct{} // the key may have changed; holds one
	inherit bool          // a key of an earlier life of this id may be taken over
}

func (o *office) run(ctx context.Context) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		now, next, ending := o.s.terms.current()
		switch {
		case ending:
			return
		case now == nil:
			select {
			case <-ctx.Done():
				return
			case <-next:
			}
			continue
		}
		mine, err := o.take(ctx, now.lease)
		if mine {
			if !o.lead(ctx, now) {
				return
			}
			continue
		}
		var again <-chan time.Time
		if err != nil && ctx.Err() == nil {
			o.s.opts.Log.Debug("etcd: election", "key", o.key, "error", err)
			retry.Reset(time.Second)
			again = retry.C
		}
		select {
		case <-ctx.Done():
			return
		case <-o.changed:
		case <-now.over:
		case <-again:
		}
	}
}

// lead holds the office for as long as it can; false when it was given back because ctx ended.
func (o *office) lead(ctx context.Context, now *term) bool {
	select {
	case <-now.over: // while it was being taken
		return true
	default:
	}
	o.fn(true)
	// What is asked of etcd while leading must not keep us from seeing that the term is over.
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(now.ctx, cancel)()
	for leading := true; leading; {
		select {
		case <-ctx.Done():
			leading = false
		case <-now.over:
			leading = false
		case <-o.changed:
			mine, err := o.take(asking, now.lease)
			leading = mine || err != nil
		}
	}
	o.fn(false)
	if ctx.Err() != nil {
		o.release(ctx, now.lease) // not before: somebody waits for it
		return false
	}
	return true
}

// take makes the office ours if it is free, and tells whether it is ours now.
func (o *office) take(ctx context.Context, lease clientv3.LeaseID) (mine bool, err error) {
	err = o.s.do(ctx, "election "+o.key, func(ctx context.Context, c *clientv3.Client) error {
		put := clientv3.OpPut(o.key, o.id, clientv3.WithLease(lease))
		r, err := c.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(o.key), "=", 0)).Then(put).Else(clientv3.OpGet(o.key)).Commit()
		if err != nil {
			return err
		}
		if mine = r.Succeeded; mine {
			return nil
		}
		kvs := r.Responses[0].GetResponseRange().Kvs
		if len(kvs) == 0 {
			return fmt.Errorf("%s is neither there nor not there", o.key)
		}
		held := kvs[0]
		if string(held.Value) != o.id {
			return nil
		}
		if mine = clientv3.LeaseID(held.Lease) == lease; mine || !o.inherit {
			return nil
		}
		r, err = c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(o.key), "=", held.ModRevision)).Then(put).Commit()
		mine = err == nil && r.Succeeded
		return err
	})
	if err == nil {
		o.inherit = false
	}
	return mine, err
}

// release gives the office back, if it is still ours.
func (o *office) release(ctx context.Context, lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseGrace)
	defer cancel()
	err := o.s.do(ctx, "release "+o.key, func(ctx context.Context, c *clientv3.Client) error {
		ours := []clientv3.Cmp{clientv3.Compare(clientv3.LeaseValue(o.key), "=", lease), clientv3.Compare(clientv3.Value(o.key), "=", o.id)}
		_, err := c.Txn(ctx).If(ours...).Then(clientv3.OpDelete(o.key)).Commit()
		return err
	})
	if err != nil {
		o.s.opts.Log.Debug("etcd: an office is held until its lease ends", "key", o.key, "error", err)
	}
}
