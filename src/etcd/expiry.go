package etcd

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"go.etcd.io/etcd/client/v3"
)

// ends is where it is written when keys end: a lease starts anew with each new leader, so it alone would let them live longer. The entry
// of a key has the same lease; its name is hidden from listings.
const ends = "/_ttl"

// maxTTL, in seconds, is for ever, and still a time.Duration.
const maxTTL = 100 * 365 * 24 * 3600

func endOf(key string) string { return ends + key }

// writes returns what stores a value, and when it ends. The lease is for the caller to revoke if that comes to nothing; 0 is none.
func writes(ctx context.Context, c *clientv3.Client, key, value string, ttl time.Duration) ([]clientv3.Op, clientv3.LeaseID, error) {
	if ttl <= 0 {
		return []clientv3.Op{clientv3.OpPut(key, value, clientv3.WithPrevKV()), clientv3.OpDelete(endOf(key))}, 0, nil
	}
	ttl = min(ttl, maxTTL*time.Second)
	end := time.Now().Add(ttl)
	lease, err := c.Grant(ctx, int64(math.Ceil(ttl.Seconds())))
	if err != nil {
		return nil, 0, err
	}
	stamp := fmt.Sprintf("%d %d", end.UnixMilli(), ttl.Milliseconds())
	return []clientv3.Op{
		clientv3.OpPut(key, value, clientv3.WithPrevKV(), clientv3.WithLease(lease.ID)),
		clientv3.OpPut(endOf(key), stamp, clientv3.WithLease(lease.ID)),
	}, lease.ID, nil
}

// revoke gives a lease back that nothing was put under.
func (s *Service) revoke(ctx context.Context, c *clientv3.Client, lease clientv3.LeaseID) {
	if lease != 0 {
		if _, err := c.Revoke(ctx, lease); err != nil {
			s.opts.Log.Debug("etcd: an empty lease is left to end by itself", "error", err)
		}
	}
}

// ending is a key that ends.
type ending struct {
	key   string
	stamp string
	at    time.Time // zero: it no longer does
}

// expire deletes keys when their time is over. All members and clients do, so that it happens whoever is gone.
func (s *Service) expire(ctx context.Context) {
	told := make(chan ending)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		_ = s.Watch(ctx, ends+"/", func(e Event) { // fails only with the service
			if e.Synced {
				return
			}
			end := ending{key: strings.TrimPrefix(e.Key, ends), stamp: string(e.Value), at: endAt(e, time.Now())}
			select {
			case told <- end:
			case <-ctx.Done():
			}
		})
	}()
	defer func() { <-watched }()
	pending := map[string]ending{}
	next := time.NewTimer(0) // to the earliest of pending, or before
	defer next.Stop()
	var due time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-told:
			if e.at.IsZero() {
				delete(pending, e.key)
				continue
			}
			pending[e.key] = e
			if due.IsZero() || e.at.Before(due) {
				due = e.at
				next.Reset(time.Until(due))
			}
			continue
		case <-next.C:
		}
		now := time.Now()
		due = time.Time{}
		for key, e := range pending {
			if !e.at.After(now) {
				if err := s.end(ctx, e); err == nil {
					delete(pending, key)
					continue
				} else if ctx.Err() == nil {
					s.opts.Log.Debug("etcd: a key outlives its time", "key", key, "error", err)
				}
				e.at = now.Add(time.Second)
				pending[key] = e
			}
			if due.IsZero() || e.at.Before(due) {
				due = e.at
			}
		}
		if !due.IsZero() {
			next.Reset(time.Until(due))
		}
	}
}

// endAt tells when the key of an entry ends, by the clock of this process: what is written while it watches begins now, so that the
// clocks of hosts need not agree. What was there before ends at the time that is written there.
func endAt(e Event, now time.Time) time.Time {
	var end, ttl int64
	if e.Value == nil {
		return time.Time{}
	}
	if _, err := fmt.Sscanf(string(e.Value), "%d %d", &end, &ttl); err != nil || ttl <= 0 || ttl > maxTTL*1000 {
		return time.Time{} // not ours; the lease ends it
	}
	left := ttl
	if e.listed {
		left = max(0, min(left, end-now.UnixMilli()))
	}
	return now.Add(time.Duration(left) * time.Millisecond)
}

// end deletes a key unless it has another end by now.
func (s *Service) end(ctx context.Context, e ending) error {
	return s.do(ctx, "expire "+e.key, func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Txn(ctx).If(clientv3.Compare(clientv3.Value(endOf(e.key)), "=", e.stamp)).
			Then(clientv3.OpDelete(e.key), clientv3.OpDelete(endOf(e.key))).Commit()
		return err
	})
}
