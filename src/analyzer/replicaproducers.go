package analyzer

import (
	"errors"
	"time"

	"skydive/src/pubsub"
	"skydive/src/ws"
)

// producerNews is that a producer begins to talk, that its first message is in the graph, or that it has gone.
type producerNews struct {
	origin   string
	event    producerEvent
	farewell bool
}

type producerEvent int

const (
	producerBegins producerEvent = iota
	producerBegan
	producerLeft
)

func (r *Replicas) isAgent(p ws.Peer) bool {
	return p.Path == r.o.Agents.Path() && p.ServiceType == agentType
}

// Begins is told before the first message of a producer is applied: of an agent, this analyzer is right from now on.
func (r *Replicas) Begins(peer ws.Peer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isAgent(peer) {
		t := r.talking[peer.Origin()]
		if t == nil {
			t = new(talk)
			r.talking[peer.Origin()] = t
		}
		t.connections++
	}
	r.note(producerNews{origin: peer.Origin(), event: producerBegins})
}

// Began is told when that message is applied.
func (r *Replicas) Began(peer ws.Peer) {
	if r.isAgent(peer) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if t := r.talking[peer.Origin()]; t != nil {
			t.began = true
		}
		r.note(producerNews{origin: peer.Origin(), event: producerBegan})
	}
}

// Left is told that a producer has gone, and all it said is applied. The answer is whether its elements stay nevertheless.
func (r *Replicas) Left(peer ws.Peer, err error) bool {
	origin, isAgent, alone := peer.Origin(), r.isAgent(peer), r.alone()
	r.mu.Lock()
	defer r.mu.Unlock()
	if isAgent {
		if t := r.talking[origin]; t != nil {
			if t.connections--; t.connections <= 0 {
				delete(r.talking, origin)
			}
		}
	}
	// An agent may come back, or be elsewhere already, and so may a publisher. If it took its leave, or was there before, its elements go
	// once it is nowhere.
	stays := !alone && (isAgent || r.present[origin])
	var close ws.CloseError
	farewell := !isAgent || errors.As(err, &close) && close.Code != ws.StatusTryAgain
	r.note(producerNews{origin: origin, event: producerLeft, farewell: farewell && stays && peer.PersistencePolicy == pubsub.DeleteOnDisconnect})
	return stays
}

// note is called with mu held.
func (r *Replicas) note(n producerNews) {
	r.news = append(r.news, n)
	r.waiting.Store(true)
	signal(r.wake)
}

// elsewhere lists the origins that are connected to any of the analyzers, but for agents of this one.
func (r *Replicas) elsewhere() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]string, 0, len(r.present)+len(r.own))
	for origin := range r.present {
		all = append(all, origin)
	}
	for origin := range r.own {
		all = append(all, origin)
	}
	return all
}

// unseen is told that the elements of an origin go, because nobody has heard of it for long.
func (r *Replicas) unseen(origin string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expired[origin] = time.Now()
	r.waiting.Store(true)
}
