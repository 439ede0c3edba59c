package analyzer

import (
	"context"
	"sync"
	"time"
)

// memory is the Liveness of an analyzer that is alone.
type memory struct {
	mu   sync.Mutex // guards seen
	seen map[string]time.Time
}

func newMemory() *memory { return &memory{seen: make(map[string]time.Time)} }

// Seen never goes back in time.
func (m *memory) Seen(_ context.Context, origin string, at time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen[origin].Before(at) {
		m.seen[origin] = at
	}
	return nil
}

func (m *memory) Stale(_ context.Context, before time.Time) (stale []string, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for origin, at := range m.seen {
		if at.Before(before) {
			stale = append(stale, origin)
		}
	}
	return stale, nil
}

func (m *memory) Forget(_ context.Context, origin string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.seen, origin)
	return nil
}
