package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

// Get returns a value and its revision for Update. ErrNotFound when there is none.
func (s *Service) Get(ctx context.Context, key string) (value []byte, revision int64, err error) {
	err = s.do(ctx, "read "+key, func(ctx context.Context, c *clientv3.Client) error {
		r, err := c.Get(ctx, key)
		if err != nil {
			return err
		}
		if len(r.Kvs) == 0 {
			return ErrNotFound
		}
		value, revision = r.Kvs[0].Value, r.Kvs[0].ModRevision
		return nil
	})
	return value, revision, err
}

// List returns all keys that begin with prefix, with their values.
func (s *Service) List(ctx context.Context, prefix string) (map[string][]byte, error) {
	values := map[string][]byte{}
	err := s.do(ctx, "list "+prefix, func(ctx context.Context, c *clientv3.Client) error {
		r, err := c.Get(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			return err
		}
		for _, kv := range r.Kvs {
			values[string(kv.Key)] = kv.Value
		}
		return nil
	})
	return values, err
}

// Put stores a value, whether or not there is one, for good.
func (s *Service) Put(ctx context.Context, key string, value []byte) error {
	return s.do(ctx, "write "+key, func(ctx context.Context, c *clientv3.Client) error {
		put, _, err := writes(ctx, c, key, string(value), 0)
		if err == nil {
			_, err = c.Txn(ctx).Then(put...).Commit()
		}
		return err
	})
}

// Create stores a value under a new key; ErrExists when the key is taken. With a ttl above 0 the key is deleted after that time, which
// a watcher sees as any other deletion.
func (s *Service) Create(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	return s.do(ctx, "create "+key, func(ctx context.Context, c *clientv3.Client) error {
		put, lease, err := writes(ctx, c, key, string(value), ttl)
		if err != nil {
			return err
		}
		r, err := c.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(put...).Commit()
		if err == nil && !r.Succeeded {
			err = ErrExists
		}
		if err != nil {
			s.revoke(ctx, c, lease)
		}
		return err
	})
}

// Update replaces a value that is still of the revision that Get told, and keeps its time to live; false when it is not.
func (s *Service) Update(ctx context.Context, key string, value []byte, revision int64) (done bool, err error) {
	err = s.do(ctx, "update "+key, func(ctx context.Context, c *clientv3.Client) error {
		r, err := c.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
			Then(clientv3.OpPut(key, string(value), clientv3.WithIgnoreLease())).Commit()
		if err == nil {
			done = r.Succeeded
		}
		return err
	})
	return done, err
}

// Delete removes a key; ErrNotFound when there is none.
func (s *Service) Delete(ctx context.Context, key string) error {
	return s.do(ctx, "delete "+key, func(ctx context.Context, c *clientv3.Client) error {
		r, err := c.Txn(ctx).Then(clientv3.OpDelete(key), clientv3.OpDelete(endOf(key))).Commit()
		if err == nil && r.Responses[0].GetResponseDeleteRange().Deleted == 0 {
			return ErrNotFound
		}
		return err
	})
}

func (s *Service) do(ctx context.Context, what string, f func(context.Context, *clientv3.Client) error) error {
	c := s.client.Load()
	if c == nil {
		return ErrNotReady
	}
	if s.cfg.ClientTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.cfg.ClientTimeout)
		defer cancel()
	}
	if err := f(ctx, c); err != nil {
		if errors.Is(err, rpctypes.ErrNoSpace) {
			err = ErrFull
			select {
			case s.full <- struct{}{}:
			default:
			}
		}
		return fmt.Errorf("etcd: %s: %w", what, err)
	}
	return nil
}

// Event is a change of a key: a nil Value means deleted or expired. A Synced event has no key and says that everything there was when
// watching began, or began anew, has been told.
type Event struct {
	Key    string
	Value  []byte
	Synced bool
	listed bool // it was there before it was watched
}

// Watch tells fn of every key below prefix that there is, then Synced, then every change, until ctx ends; fn is called by one
// goroutine, in order. After a lost connection it compares and goes on, so that nothing is missed; changes in between may come as one.
func (s *Service) Watch(ctx context.Context, prefix string, fn func(Event)) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.ready:
	}
	known := map[string]int64{} // revision by key
	retry := time.NewTicker(time.Second)
	defer retry.Stop()
	for ctx.Err() == nil {
		err := s.watch(ctx, prefix, known, fn)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, ErrNotReady) {
			return err // the service ended
		}
		s.opts.Log.Debug("etcd: watching anew", "prefix", prefix, "error", err)
		select {
		case <-ctx.Done():
		case <-retry.C:
		}
	}
	return nil
}

// watcher returns a client for one watch, what watches with it, and what ends both; nil when there is none. The watches of one client share
// a stream, and can block each other for ever when several begin or end at a time: each has a stream of its own, and in the server's
// process a client of its own.
func (s *Service) watcher() (c *clientv3.Client, w clientv3.Watcher, done func()) {
	c, server := s.client.Load(), s.server.Load()
	if c == nil {
		return nil, nil, nil
	}
	if server == nil || len(s.cfg.Servers) > 0 {
		w = clientv3.NewWatcher(c)
		return c, w, func() { _ = w.Close() } // it says that it was closed
	}
	own := v3client.New(server.Server)
	return own, own, func() { _ = own.Close() }
}

func (s *Service) watch(ctx context.Context, prefix string, known map[string]int64, fn func(Event)) error {
	c, w, done := s.watcher()
	if c == nil {
		return ErrNotReady
	}
	defer done()
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	now, err := c.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	present := make(map[string]bool, len(now.Kvs))
	for _, kv := range now.Kvs {
		key := string(kv.Key)
		present[key] = true
		if known[key] != kv.ModRevision {
			known[key] = kv.ModRevision
			fn(Event{Key: key, Value: kv.Value, listed: true})
		}
	}
	for key := range known {
		if !present[key] {
			delete(known, key)
			fn(Event{Key: key})
		}
	}
	fn(Event{Synced: true})
	for r := range w.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(now.Header.Revision+1)) {
		if err := r.Err(); err != nil {
			return err
		}
		for _, e := range r.Events {
			key := string(e.Kv.Key)
			if e.Type == clientv3.EventTypeDelete {
				delete(known, key)
				fn(Event{Key: key})
				continue
			}
			known[key] = e.Kv.ModRevision
			fn(Event{Key: key, Value: e.Kv.Value})
		}
	}
	return errors.New("stream ended")
}
