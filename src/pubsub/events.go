package pubsub

import (
	"iter"
	"slices"
	"sync"

	"skydive/src/graph"
	"skydive/src/wire"
)

// variant is how an event is told: in which protocol, and whether an update is told as what changed or as the whole element.
type variant struct {
	protocol wire.Protocol
	partial  bool
}

func (v variant) encode(ch graph.Change) []byte {
	return wire.Event(ch, v.partial).Append(nil, v.protocol)
}

// all yields the messages that tell of changes, one by one.
func (v variant) all(changes []graph.Change) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, ch := range changes {
			if !yield(v.encode(ch)) {
				return
			}
		}
	}
}

const (
	sharedBytes   = 4 << 20 // of messages remembered
	sharedChanges = 4096    // of one commit: larger ones are encoded bit by bit for each subscriber, rather than held as a whole
)

// shared encodes each commit once per variant for all subscribers, and remembers the latest for those who are a little behind.
type shared struct {
	mu     sync.Mutex // guards the rest; not held while encoding
	commit map[*graph.Commit]*encoded
	oldest []*encoded // first
	size   int        // bytes of all
}

type encoded struct {
	commit *graph.Commit
	size   int // guarded by shared.mu

	mu   sync.Mutex // guards done, and makes others wait for who encodes
	done map[variant][][]byte
}

func (s *shared) messages(c *graph.Commit, v variant) iter.Seq[[]byte] {
	if len(c.Changes) > sharedChanges {
		return v.all(c.Changes)
	}
	e := s.of(c)
	e.mu.Lock()
	defer e.mu.Unlock()
	msgs, ok := e.done[v]
	if !ok {
		msgs = slices.Collect(v.all(c.Changes))
		e.done[v] = msgs
		s.grown(e, msgs)
	}
	return slices.Values(msgs)
}

func (s *shared) of(c *graph.Commit) *encoded {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.commit[c]
	if e == nil {
		if s.commit == nil {
			s.commit = make(map[*graph.Commit]*encoded)
		}
		e = &encoded{commit: c, done: make(map[variant][][]byte)}
		s.commit[c] = e
		s.oldest = append(s.oldest, e)
	}
	return e
}

// grown accounts for new messages of e, and forgets the oldest commits when there is too much.
func (s *shared) grown(e *encoded, msgs [][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, msg := range msgs {
		e.size += len(msg)
		if s.commit[e.commit] == e { // else it was forgotten meanwhile
			s.size += len(msg)
		}
	}
	for s.size > sharedBytes {
		old := s.oldest[0]
		s.oldest[0] = nil
		s.oldest = s.oldest[1:]
		s.size -= old.size
		delete(s.commit, old.commit)
	}
}
