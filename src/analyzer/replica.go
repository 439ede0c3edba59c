package analyzer

import (
	"context"
	"errors"
	"hash/fnv"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/graph"
	"skydive/src/pubsub"
	"skydive/src/wire"
	"skydive/src/ws"
)

// ReplicasOptions are the parts of Replicas.
type ReplicasOptions struct {
	Graph      *graph.Graph
	HostID     string
	Addrs      []string           // of all analyzers, this one included; none: it stands alone
	Dial       ws.DialOptions     // how to connect to each: TLS, credentials, Config, Metrics
	Endpoint   ws.EndpointOptions // /ws/replication, all but Connect
	Agents     *Agents
	Publishers []*pubsub.Publisher // others than Agents
	// Answer answers what other analyzers ask, outside the namespaces Graph and Replica; nil, and a nil answer: they get none.
	Answer     func(context.Context, *wire.Message) *wire.Message
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are not registered
}

// Replicas keeps the graph equal to those of the other analyzers, each of which it is connected to.
//
// Every change carries a stamp, and the later one counts (docs/internals.md, "Replication"). What an agent reports has one more rule: the
// analyzer that hears the agent is right about all of it, and a replica makes its own part equal to that. One goroutine, Run, owns what
// is known of stamps, origins and peers. As long as no other analyzer was ever connected there is nothing of that, and no cost.
type Replicas struct {
	*ws.Endpoint
	o         ReplicasOptions
	log       *slog.Logger
	metrics   *replicaMetrics
	process   string // of this life
	inbox     chan replicaEvent
	stop      chan struct{} // closed when Run is over
	wake      chan struct{} // there are news
	questions questions

	mu      sync.Mutex               // guards below
	dials   []*replicaDial           // one for each address
	links   map[string]*replicaLink  // by host id
	talking map[string]*talk         // the producers that this analyzer hears itself, by origin
	news    []producerNews           // for Run
	expired map[string]time.Time     // origins whose elements went because nobody has seen them
	present map[string]bool          // origins whose producer is connected to an analyzer that is connected to this one
	own     map[string]bool          // and those of this one
	told    replicaCounts            // for Status
	last    map[string]replicaRepair // the last repair, by host id of whom it came from

	waiting atomic.Bool // there are news

	// Below belongs to Run.
	store         *replicaStore // nil: no other analyzer was ever connected
	commits       *graph.Subscription
	peers         map[string]*replicaPeer
	unseenOrigins map[string]bool
	leaving       map[string]bool // agents that took their leave here
	outs          []replicaOut    // to tell
	pending       []replicaOut    // for holders who are not connected
	fromPlain     bool            // what is being written came from a public analyzer
	claimed, full time.Time       // when the last claims went out
	presence      []string        // as told
	quiet         time.Time       // when a repair was last under way
	timing        replicaTiming
	wall          func() time.Time
}

// talk is a producer that this analyzer hears.
type talk struct {
	connections int
	began       bool // its first message is in the graph
}

// replicaTiming is how often things are done; tests make it faster.
type replicaTiming struct {
	tick, claims, full, repair, park, plain time.Duration
}

var defaultReplicaTiming = replicaTiming{
	tick:   200 * time.Millisecond,
	claims: time.Second,      // between two messages that tell which origins changed
	full:   10 * time.Second, // between two that tell of all
	repair: 15 * time.Second, // for an answer, after which another peer is asked
	park:   time.Minute,      // for the node of an edge to come
	plain:  3 * time.Second,  // for a peer to show that it is one of ours
}

// replicaSource labels commits of what other analyzers told.
const replicaSource = "replication"

// replicaQueue is how many commits may wait; they cost nothing but a pointer.
const replicaQueue = 1 << 16

var errBehind = errors.New("commits were lost")

// NewReplicas returns inert Replicas. Agents and Publishers must not run yet.
func NewReplicas(o ReplicasOptions) *Replicas {
	r := &Replicas{
		o: o, log: o.Logger, process: graph.NewID(), inbox: make(chan replicaEvent, 256), stop: make(chan struct{}), wake: make(chan struct{}, 1),
		links: make(map[string]*replicaLink), talking: make(map[string]*talk), expired: make(map[string]time.Time), present: make(map[string]bool),
		last: make(map[string]replicaRepair), peers: make(map[string]*replicaPeer), unseenOrigins: make(map[string]bool), leaving: make(map[string]bool), timing: defaultReplicaTiming, wall: time.Now,
	}
	r.metrics = newReplicaMetrics(o.Registerer, r)
	o.Endpoint.Connect = r.accept
	r.Endpoint = ws.NewEndpoint(o.Endpoint)
	seen := make(map[string]bool)
	for _, addr := range o.Addrs {
		if !seen[addr] {
			seen[addr] = true
			r.dials = append(r.dials, newReplicaDial(r, addr))
		}
	}
	o.Agents.cluster = r
	o.Agents.Attach(r)
	for _, p := range o.Publishers {
		p.Attach(r)
	}
	return r
}

// stampBy tells this process from all others.
func (r *Replicas) stampBy() uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(r.o.HostID + "/" + r.process))
	return h.Sum32()
}

// Run connects to the other analyzers, and serves them, until ctx ends.
func (r *Replicas) Run(ctx context.Context) error {
	defer close(r.stop)
	inner, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	var err error
	running.Go(func() { err = r.Endpoint.Run(inner) })
	for _, d := range r.dials {
		running.Go(func() { d.run(inner) })
	}
	over := make(chan struct{})
	go func() {
		running.Wait()
		close(over)
	}()
	r.loop(ctx, over)
	return err
}

// loop works until over, and takes what connections still say, so that they can end.
func (r *Replicas) loop(ctx context.Context, over <-chan struct{}) {
	tick := time.NewTicker(r.timing.tick)
	defer tick.Stop()
	ticks := tick.C
	stopping := ctx.Done()
	ending := false
	for {
		var commits <-chan *graph.Commit
		if r.commits != nil && !ending {
			commits = r.commits.C()
		}
		select {
		case e := <-r.inbox:
			if ending {
				continue
			}
			ticks = tick.C
			r.guarded(func() {
				r.take(e)
				r.settle()
			})
		case c, ok := <-commits:
			r.guarded(func() {
				if !ok {
					r.renew()
				} else {
					r.local(c)
				}
				r.settle()
			})
		case <-r.wake:
			ticks = tick.C
		case <-ticks:
			if ending {
				continue
			}
			r.guarded(r.tick)
			if r.store == nil && len(r.leaving) == 0 && !r.waiting.Load() && r.alone() {
				ticks = nil // an analyzer on its own does nothing
			}
		case <-stopping:
			ending, stopping = true, nil
		case <-over:
			if r.commits != nil {
				r.commits.Close()
			}
			return
		}
	}
}
