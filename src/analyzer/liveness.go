package analyzer

import (
	"sync"
	"time"
)

// liveness remembers when producers gave their last sign of life.
type liveness struct {
	mu   sync.Mutex // guards seen
	seen map[string]time.Time
}

// mark notes a sign of life. It never goes back in time.
func (l *liveness) mark(origin string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen[origin].Before(at) {
		l.seen[origin] = at
	}
}

// hear gives an origin that was not known until now the time to show itself.
func (l *liveness) hear(origin string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.seen[origin]; !known {
		l.seen[origin] = now
	}
}

// stale returns the origins not seen since before.
func (l *liveness) stale(before time.Time) (stale []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for origin, at := range l.seen {
		if at.Before(before) {
			stale = append(stale, origin)
		}
	}
	return stale
}

func (l *liveness) forget(origin string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, origin)
}
