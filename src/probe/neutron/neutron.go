// Package neutron says of the interfaces and namespaces of this host which port, network, router, floating addresses and project of
// OpenStack they belong to, as Neutron has it.
//
// It asks for what this host has and nothing else, a few times a minute, and adds no node and no edge: it writes Manager, Neutron,
// PeerIntfMAC and, along the path from Open vSwitch to an instance, ExtID of nodes that others show. It never changes anything in
// OpenStack, and needs no more than the right to list.
package neutron

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"skydive/src/graph"
	"skydive/src/probe"
)

// Config of the probe.
type Config struct {
	AuthURL    string // of Keystone
	Username   string
	Password   string
	TenantName string // the project that the user has its role in
	DomainName string // of user and project
	RegionName string // "": any
	// EndpointType is which of Neutron's addresses is used: public, internal or admin.
	EndpointType string
	Insecure     bool          // certificates are not verified
	CACert       string        // file of the authorities to trust; "": those of the system
	Update       time.Duration // time between two looks for what changed
	Timeout      time.Duration // of one request
}

// Spec of the probe.
var Spec = probe.Define("neutron", "ports, networks, routers and projects of OpenStack that interfaces belong to", Config{
	Username: "neutron", TenantName: "service", DomainName: "Default", RegionName: "RegionOne", EndpointType: "public",
	Update: 30 * time.Second, Timeout: 30 * time.Second,
}, New)

// Probe matches nodes with ports.
type Probe struct {
	cfg     Config
	env     probe.Env
	metrics *metrics
	warned  bool
	queue   int           // how many commits of the graph may wait; they cost nothing but a pointer
	share   time.Duration // how many times longer than a look took the next one waits at least: what is left of Neutron is for others
}

// New checks the configuration.
func New(env probe.Env, cfg Config) (probe.Probe, error) {
	p := &Probe{cfg: cfg, env: env, metrics: newMetrics(env.Registerer), queue: 1 << 14, share: 10}
	switch cfg.EndpointType {
	case "public", "internal", "admin":
	default:
		return nil, fmt.Errorf("endpoint_type must be public, internal or admin, not %q", cfg.EndpointType)
	}
	switch {
	case cfg.Username == "" || cfg.TenantName == "" || cfg.DomainName == "":
		return nil, errors.New("username, tenant_name and domain_name must be set: they say who asks Neutron, and in which project")
	case cfg.Password == "":
		return nil, errors.New("password is empty: it is that of user " + cfg.Username + " in Keystone")
	case cfg.Update <= 0 || cfg.Timeout <= 0:
		return nil, fmt.Errorf("times must be positive, not %v and %v", cfg.Update, cfg.Timeout)
	}
	_, err := newCloud(cfg, p.metrics.count)
	return p, err
}

const (
	// debounce is how long new nodes are collected before Neutron is asked for their ports.
	debounce = 200 * time.Millisecond
	// pause is the least time between two questions.
	pause = time.Second
	// retryLast is the longest wait after failures.
	retryLast = time.Minute
)

// Run follows graph and Neutron until ctx ends.
func (p *Probe) Run(ctx context.Context) (err error) {
	c, err := newCloud(p.cfg, p.metrics.count)
	if err != nil {
		return err
	}
	defer c.client.CloseIdleConnections()
	if p.cfg.Insecure && !p.warned {
		p.warned = true
		p.env.Log.Warn("the certificates of Keystone and Neutron are not verified, so anybody on the way can read the password: ssl_insecure")
	}
	group, ctx := probe.NewGroup(ctx)
	l := &loop{
		cfg: p.cfg, share: p.share, view: newView(p.env, p.metrics), log: p.env.Log, running: p.env.Running,
		questions: make(chan question), answers: make(chan answer, 1), poll: time.NewTimer(0), soon: time.NewTimer(time.Hour),
	}
	defer l.poll.Stop()
	defer l.soon.Stop()
	defer func() {
		if failed := group.Stop(); err == nil {
			err = failed
		}
		if err != nil {
			err = errors.Join(err, l.view.withdraw())
		}
	}()
	group.Go(func() error {
		r := &reader{cloud: c}
		for {
			select {
			case <-ctx.Done():
				return nil
			case q := <-l.questions:
				start := time.Now()
				known, lacks, err := r.read(ctx, q)
				l.answers <- answer{q.all, known, lacks, err, time.Since(start)}
			}
		}
	})
	for {
		commits, snapshot := p.env.Graph.Subscribe(p.queue)
		l.view.adopt(snapshot)
		err := l.follow(ctx, commits)
		commits.Close()
		if err != errBehind {
			return err
		}
		p.env.Log.Warn("commits of the graph were lost, and all of it is looked at again")
	}
}

var errBehind = errors.New("commits were lost")

// answer is what came of a question.
type answer struct {
	all   bool // of all that was wanted
	known *inventory
	lacks string // what could not be read of it
	err   error
	took  time.Duration
}

// loop decides when to ask. Asking is another goroutine's, so that the graph is followed whatever Neutron does.
type loop struct {
	cfg       Config
	share     time.Duration
	view      *view
	log       interface{ Debug(string, ...any) }
	running   func(string)
	questions chan question
	answers   chan answer
	poll      *time.Timer // all that is wanted is asked for when it fires
	soon      *time.Timer // what is new is asked for when it fires
	pollDue   bool
	soonDue   bool // soon is set
	freshDue  bool
	busy      bool // a question is being answered
	failures  int
	shown     bool // there was an answer
}

func (l *loop) follow(ctx context.Context, commits *graph.Subscription) error {
	for {
		if err := l.view.publish(); err != nil {
			return err
		}
		l.ask(ctx)
		select {
		case <-ctx.Done():
			return nil
		case c, ok := <-commits.C():
			if !ok {
				return errBehind
			}
			l.view.heard(c)
			for waiting := len(commits.C()); waiting > 0; waiting-- {
				if c, ok := <-commits.C(); ok {
					l.view.heard(c)
				}
			}
		case <-l.poll.C:
			l.pollDue = true
		case <-l.soon.C:
			l.soonDue, l.freshDue = false, true
		case a := <-l.answers:
			if err := l.answered(ctx, a); err != nil {
				return err
			}
		}
	}
}

// ask puts the next question, when it is time and the last one has been answered.
func (l *loop) ask(ctx context.Context) {
	if l.view.fresh.empty() {
		l.freshDue = false
	} else if !l.soonDue && !l.freshDue {
		l.soonDue = true
		l.soon.Reset(debounce)
	}
	var q question
	switch {
	case l.busy:
		return
	case l.pollDue:
		q = question{want: l.view.takeAll(), all: true}
	case l.freshDue && l.failures == 0:
		q = question{want: l.view.everything(), fresh: l.view.takeFresh()}
	default:
		return
	}
	l.pollDue, l.freshDue = false, false
	if l.shown && l.failures == 0 && q.want.empty() { // nothing here is Neutron's
		l.poll.Reset(l.interval())
		return
	}
	l.busy = true
	select {
	case l.questions <- q:
	case <-ctx.Done():
	}
}

func (l *loop) answered(ctx context.Context, a answer) error {
	l.busy = false
	if ctx.Err() != nil {
		return nil
	}
	if a.err != nil {
		if !l.shown {
			return a.err
		}
		l.failures++
		l.running(a.err.Error() + "; what is shown is as of before")
		l.poll.Reset(jitter(min(pause<<min(l.failures, 10), retryLast)))
		return nil
	}
	l.failures, l.shown = 0, true
	l.view.learn(a.known)
	if err := l.view.publish(); err != nil {
		return err
	}
	if a.lacks == "" {
		a.lacks = l.view.complaint(l.cfg.Username)
	}
	l.running(a.lacks)
	l.log.Debug("Neutron was asked", "time", a.took, "ports", len(a.known.ports))
	if a.all {
		l.poll.Reset(max(l.interval(), l.share*a.took))
	}
	// What became new meanwhile waits for a moment.
	if l.soonDue || l.freshDue {
		l.soonDue, l.freshDue = true, false
		l.soon.Reset(pause)
	}
	return nil
}

func (l *loop) interval() time.Duration { return jitter(l.cfg.Update) }

// jitter keeps agents that were started together from asking together for ever.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d)/5+1))
}
