package disk

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// write is a batch on its way to the engine.
type write struct {
	batch  *pebble.Batch // may be nil
	sync   bool          // answer once it is on disk
	always bool          // even while stopped: it makes room
	usage  usages
	forget []int64 // hours that go
	done   chan error
}

// commit hands a batch over and waits until it is written.
func (a *Archive) commit(ctx context.Context, w *write) error {
	w.done = make(chan error, 1)
	halted := a.stop()
	if w.always {
		halted = nil
	}
	select {
	case <-halted:
		return a.refusal()
	default:
	}
	select {
	case a.queue <- w:
	case <-halted:
		return a.refusal()
	case <-a.quit:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-w.done:
		return err
	case <-halted:
	case <-a.quit:
	case <-ctx.Done():
	}
	select {
	case err := <-w.done:
		return err
	default:
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return a.refusal()
}

// maxGroup is how many batches are made durable by one write to the disk.
const maxGroup = 64

// writer returns the only goroutine that writes.
func (a *Archive) writer(db *pebble.DB) func() {
	return func() {
		ended := false
		defer func() {
			if p := recover(); p != nil {
				a.set(Failed, fmt.Sprint(p))
			} else if !ended {
				a.set(Failed, a.lastWords())
			}
		}()
		group := make([]*write, 0, maxGroup)
		for !ended {
			select {
			case w := <-a.queue:
				group = append(group[:0], w)
			case <-a.quit:
				ended = true
				continue
			}
		more:
			for len(group) < maxGroup {
				select {
				case w := <-a.queue:
					group = append(group, w)
				default:
					break more
				}
			}
			err := a.apply(db, group)
			for _, w := range group {
				w.done <- err
			}
		}
	}
}

func (a *Archive) apply(db *pebble.DB, group []*write) error {
	sync := false
	for _, w := range group {
		sync = sync || w.sync
		b := w.batch
		if b == nil {
			continue
		}
		a.ledger.add(b, w.usage, w.forget)
		err := errors.Join(db.Apply(b, pebble.NoSync), b.Close())
		if err != nil {
			return err
		}
	}
	if sync {
		return db.LogData(nil, pebble.Sync)
	}
	return nil
}
