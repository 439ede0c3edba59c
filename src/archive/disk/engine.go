package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sys/unix"
)

// version names what is in the archive and how. A change of the layout raises the number.
const version = "skydive archive 1"

// The engine's memory. Two memtables fill before writes wait, so that this is 20 MiB at most, and a few when idle.
const (
	cacheBytes    = 8 << 20
	memtableBytes = 4 << 20
)

// open opens the engine and reads what is needed to go on; alive is when the last process was last known to live.
func (a *Archive) open(alive int64) (*pebble.DB, error) {
	var db *pebble.DB
	err := a.guard(a.works, func() (err error) {
		opened, err := pebble.Open(a.o.Path, a.engine())
		if err != nil {
			return unopened(err)
		}
		db = opened
		return a.explain(a.begin(opened, alive))
	})
	if err == nil {
		return db, nil
	}
	switch cause := context.Cause(a.works); {
	case cause != nil:
		err = cause
	case db != nil:
		err = errors.Join(err, a.guard(a.works, db.Close))
	}
	switch {
	case errors.Is(err, os.ErrPermission), errors.Is(err, syscall.EROFS):
		return nil, unwritable(a.o.Path, err)
	case errors.Is(err, ErrDamaged):
		return nil, fmt.Errorf("archive %s: %w; give another path, or move this one away so that a new archive is begun", a.o.Path, err)
	}
	return nil, fmt.Errorf("archive %s: %w", a.o.Path, err)
}

// unopened tells damage from what the system refuses: the engine does not.
func unopened(err error) error {
	var system syscall.Errno
	switch {
	case strings.Contains(err.Error(), "unknown format major version"):
		return errNewer
	case errors.As(err, &system) && system != syscall.ENOENT:
		return err
	}
	return damage(err)
}

var errNewer = errors.New("was written by a newer version of this program: use that, or another path")

// damage is one line; the engine's errors have several, which repeat themselves.
func damage(err error) error {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Errorf("%w: %s", ErrDamaged, text)
}

// begin checks whose archive it is, closes what the last process left open, and goes on where it ended.
func (a *Archive) begin(db *pebble.DB, alive int64) error {
	v, closer, err := db.Get([]byte{spaceVersion})
	switch {
	case err == nil:
		defer closer.Close()
		if string(v) != version {
			return fmt.Errorf("was written as %q, and this program knows only %q: use the program that wrote it, or another path", v, version)
		}
	case !errors.Is(err, pebble.ErrNotFound):
		return err
	default:
		it, err := db.NewIter(nil)
		if err != nil {
			return err
		}
		some := it.First()
		if err := errors.Join(it.Error(), it.Close()); err != nil {
			return err
		}
		if some {
			return errors.New("was written by another program: give another path")
		}
		if err := db.Set([]byte{spaceVersion}, []byte(version), pebble.Sync); err != nil {
			return err
		}
	}
	if err := a.ledger.load(db); err != nil {
		return err
	}
	return a.resume(db, alive)
}

func (a *Archive) engine() *pebble.Options {
	o := &pebble.Options{
		CacheSize:                   cacheBytes,
		MemTableSize:                memtableBytes,
		MemTableStopWritesThreshold: 3,
		MaxOpenFiles:                256,
		FormatMajorVersion:          pebble.FormatNewest,
		FS:                          &patient{a.fs, a.o.Path, a.waitForRoom, a.lost},
		Logger:                      logger{a},
		FlushDelayDeleteRange:       time.Second,
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				if a.complaints.due(a.o.Clock()) {
					a.log.Warn("The archive's engine failed at a background task and tries again", "error", err)
				}
			},
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				a.metrics.damaged.add(1)
				a.log.Error("A file of the archive is damaged", "path", info.Path, "error", info.Details)
			},
		},
	}
	// A file holds keys of one space, so that those of reports, which come in the order of time, are moved instead of merged again and
	// again, and go as a whole when they are forgotten.
	o.Experimental.SpanPolicyFunc = func(start []byte) (pebble.SpanPolicy, []byte, error) {
		if len(start) == 0 {
			return pebble.SpanPolicy{}, nil, nil
		}
		return pebble.SpanPolicy{}, upper(start[:1]), nil
	}
	o.Levels[0].BlockSize = 16 << 10
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	return o
}

// explain names damage as such.
func (a *Archive) explain(err error) error {
	if errors.Is(err, errRecord) {
		a.metrics.damaged.add(1)
	}
	if err != nil && !errors.Is(err, ErrDamaged) && (pebble.IsCorruptionError(err) || errors.Is(err, errRecord)) {
		return damage(err)
	}
	return err
}

// guard runs fn so that neither a panic nor the engine's giving up – which on damaged files it does where no error is returned – ends
// more than fn. Of an engine that failed, which may hold what fn waits for, nothing is waited for longer than ctx.
func (a *Archive) guard(ctx context.Context, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		returned := false
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("%w: %v", ErrDamaged, p)
			} else if !returned {
				done <- fmt.Errorf("%w: %s", ErrDamaged, a.lastWords())
			}
		}()
		err := fn()
		returned = true
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-a.works.Done():
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return a.refusal()
	}
}

func (a *Archive) lastWords() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fatal
}

// close ends the engine. A disk that has no room even for that is not waited for, nor one that failed: what was acknowledged is on it.
func (a *Archive) close(db *pebble.DB) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // of waiting for what is abandoned
	defer cancel()
	before, _ := a.current()
	if a.works.Err() != nil {
		return nil // its locks may be held by a goroutine that gave up
	}
	err := a.guard(ctx, db.Close)
	if err != nil && before == Running {
		return fmt.Errorf("close archive %s: %w", a.o.Path, err)
	}
	return nil
}

func (a *Archive) now() int64 { return a.o.Clock().UnixMilli() }

// bytes is how much the archive takes on disk.
func (a *Archive) bytes() int64 {
	a.mu.Lock()
	db := a.db
	if db == nil {
		a.mu.Unlock()
		return 0
	}
	a.readers.Add(1)
	a.mu.Unlock()
	defer a.readers.Done()
	return int64(db.Metrics().DiskSpaceUsage())
}

// room is how much of the file system is free, and how much must be.
func (a *Archive) room() (free, least int64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(a.o.Path, &fs); err != nil {
		return 0, 0, err
	}
	least = a.o.MinFree
	if least <= 0 {
		least = min(256<<20, int64(fs.Blocks)*fs.Bsize/20)
	}
	return int64(fs.Bavail) * fs.Bsize, least, nil
}

// checkRoom stops the archive when there is too little room, and lets it go on when there is a little more than that.
func (a *Archive) checkRoom() {
	free, least, err := a.room()
	switch s, _ := a.current(); {
	case err != nil:
		if s == Running {
			a.set(Stopped, err.Error())
		}
	case s == Running && free < least:
		a.set(Stopped, fmt.Sprintf("disk full: %d MiB free of %d MiB that are left to others", free>>20, least>>20))
	case s == Stopped && free >= least+least/4:
		a.set(Running, "")
	}
}

// waitForRoom holds up a write that found no room; false: the archive closes, let it fail.
func (a *Archive) waitForRoom(err error) bool {
	a.set(Stopped, "disk full: "+err.Error())
	tick := time.NewTicker(time.Second / 2)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if free, least, err := a.room(); err == nil && free >= least+least/4 {
				return true
			}
		case <-a.quit:
			return false
		}
	}
}

// lost ends the work of an engine whose write failed. It does not return: see patient.
func (a *Archive) lost(err error) {
	switch {
	case full(err): // and the archive closes: nothing is wrong
		a.abandon(err)
	case a.opened():
		a.set(Failed, "the disk does not take what is written: "+err.Error()+"; see to it, then restart")
	default:
		a.abandon(err) // it is said by open
	}
	select {}
}

func (a *Archive) opened() bool {
	select {
	case <-a.ready:
		return true
	default:
		return false
	}
}

// complaints lets some of the engine's complaints through: it repeats them.
type complaints struct{ last atomic.Int64 }

func (c *complaints) due(now time.Time) bool {
	last := c.last.Load()
	return now.Unix()-last >= 10 && c.last.CompareAndSwap(last, now.Unix())
}

// logger takes what the engine says. Only its last words matter.
type logger struct{ a *Archive }

func (l logger) Infof(format string, args ...any) {}

func (l logger) Errorf(format string, args ...any) {
	l.a.log.Log(context.Background(), slog.LevelWarn, "The archive's engine complains", "error", fmt.Sprintf(format, args...))
}

// Fatalf must not return. It ends the goroutine, and not the process as the engine's own does.
func (l logger) Fatalf(format string, args ...any) {
	l.a.mu.Lock()
	l.a.fatal = fmt.Sprintf(format, args...)
	l.a.mu.Unlock()
	l.a.set(Failed, "the engine gave up: "+l.a.lastWords()+"; restart")
	runtime.Goexit()
}

// upper is the end of all keys that begin with prefix.
func upper(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// scan yields the keys from low to high; the slices are valid until the next.
func scan(ctx context.Context, db pebble.Reader, low, high []byte, yield func(key, value []byte) error) (err error) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: high})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := yield(it.Key(), v); err != nil {
			return err
		}
	}
	return it.Error()
}

// first returns the first key from low to high, or nil.
func first(db *pebble.DB, low, high []byte) (key []byte, err error) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: high})
	if err != nil {
		return nil, err
	}
	if it.First() {
		key = bytes.Clone(it.Key())
	}
	return key, errors.Join(it.Error(), it.Close())
}
