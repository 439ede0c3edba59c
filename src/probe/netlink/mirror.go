package netlink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"skydive/src/graph"
	"skydive/src/netns"
	"skydive/src/probe"
)

// mirror is the state of the kernel as far as it is known, during one Run. It belongs to the goroutine of Run.
type mirror struct {
	*Probe
	group   *probe.Group
	ctx     context.Context // of the group: for goroutines started later
	watcher *netns.Watcher
	inbound chan inbound
	buffers buffers
	ethtool ethtool

	root       *namespace
	namespaces map[netns.ID]*namespace // root included
	claims     map[place]map[*link]struct{}
	viewed     bool // the namespaces have been listed
	hidden     bool // there are processes whose namespace we may not see

	// What is to go into the graph.
	flush      *time.Timer
	stale      []*link // with rereads set
	reread     *time.Timer
	flushDue   bool
	dirty      []*link      // with todo set
	renamed    []*namespace // with todo set
	withdrawn  []string     // nodes
	announced  bool         // the first view is in the graph
	lastReason string
}

func newMirror(p *Probe, group *probe.Group, ctx context.Context) *mirror {
	m := &mirror{
		Probe: p, group: group, ctx: ctx,
		watcher:    netns.New(p.cfg.Netns, p.env.Log),
		inbound:    make(chan inbound, queueLength),
		namespaces: make(map[netns.ID]*namespace),
		claims:     make(map[place]map[*link]struct{}),
		flush:      time.NewTimer(time.Hour),
		reread:     time.NewTimer(time.Hour),
	}
	m.flush.Stop()
	m.reread.Stop()
	return m
}

// openRoot starts with the namespace of the host.
func (m *mirror) openRoot() error {
	id, err := netns.PathID(m.cfg.Root)
	if err != nil {
		return err
	}
	m.root = m.add(netns.Namespace{ID: id, Names: []netns.Name{{Path: m.cfg.Root}}})
	m.root.node, m.root.published = m.env.Root, nil
	own, err := netns.PathID("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	var sock *socket
	if own == id { // entering one's own namespace takes a privilege, too
		sock, err = openSocket(m.cfg.ReceiveBuffer)
	} else {
		sock, err = m.enter(m.root)
	}
	if err != nil {
		return err
	}
	m.follow(m.root, sock)
	return nil
}

func (m *mirror) add(info netns.Namespace) *namespace {
	ns := newNamespace(info)
	m.namespaces[info.ID] = ns
	m.metrics.namespaces.Set(float64(len(m.namespaces)))
	return ns
}

// enter opens a socket in a namespace.
func (m *mirror) enter(ns *namespace) (*socket, error) {
	f, err := ns.info.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var sock *socket
	err = netns.Do(f, func() error {
		var err error
		sock, err = openSocket(m.cfg.ReceiveBuffer)
		return err
	})
	return sock, err
}

// follow starts to read a namespace.
func (m *mirror) follow(ns *namespace, sock *socket) {
	ns.sock, ns.trouble, ns.active = sock, nil, false
	clear(ns.asks)
	m.group.Go(func() error { return sock.readAll(m.ctx, ns, &m.buffers, m.inbound) })
	m.readAll(ns)
	// Readings of counters are spread over the time between two of them.
	ns.nextStats = time.Now().Add(rand.N(m.cfg.MetricsUpdate))
	ns.nextAudit = time.Now().Add(audit/2 + rand.N(audit))
}

// open tries to follow a namespace; whatever prevents that is tried again at each heartbeat, and shown.
func (m *mirror) open(ns *namespace) {
	sock, err := m.enter(ns)
	if err == nil {
		m.follow(ns, sock)
		return
	}
	if ns.trouble == nil && !errors.Is(err, netns.ErrGone) {
		m.env.Log.Debug("cannot follow network namespace", "namespace", ns.info.String(), "error", err)
	}
	ns.trouble = err
}

// reconcile adds and removes namespaces so that they are those of a view.
func (m *mirror) reconcile(v netns.View) {
	m.viewed, m.hidden = true, v.Hidden
	seen := make(map[netns.ID]bool, len(v.Namespaces))
	for _, info := range v.Namespaces {
		seen[info.ID] = true
		ns := m.namespaces[info.ID]
		switch {
		case ns == m.root && ns != nil:
		case ns != nil:
			if name := ns.name(); ns.setInfo(info) {
				m.touchNamespace(ns)
				if ns.name() != name {
					m.touchUsers(ns)
				}
			}
			if errors.Is(ns.trouble, netns.ErrGone) {
				m.open(ns) // there is another path to it now
			}
		default:
			ns = m.add(info)
			m.touchNamespace(ns)
			m.open(ns)
		}
	}
	for id, ns := range m.namespaces {
		if !seen[id] && ns != m.root {
			m.remove(ns)
		}
	}
}

// touchUsers renders anew the interfaces whose peer is in a namespace that has a new name.
func (m *mirror) touchUsers(of *namespace) {
	for _, ns := range m.namespaces {
		for _, l := range ns.links {
			if l.info.otherNS && ns.nsids[l.info.linkNSID] == of {
				m.touch(l, partPlain)
			}
		}
	}
}

// remove forgets a namespace. Its socket is closed at once: it would keep the namespace alive.
func (m *mirror) remove(ns *namespace) {
	if ns.sock != nil {
		ns.sock.close()
		ns.sock = nil
	}
	ns.dead = true
	var users []*link
	for _, l := range ns.links {
		for user := range m.claims[place{ns, l.info.index}] {
			users = append(users, user)
		}
		m.removeLink(l)
	}
	if ns.published != nil {
		m.withdrawn = append(m.withdrawn, ns.node)
	}
	delete(m.namespaces, ns.info.ID)
	m.metrics.namespaces.Set(float64(len(m.namespaces)))
	for _, other := range m.namespaces {
		other.forget(ns)
	}
	for _, l := range users {
		if l.info.index != 0 {
			m.setPlaces(l)
		}
	}
	m.flushSoon()
}

func (m *mirror) closeAll() {
	for _, ns := range m.namespaces {
		if ns.sock != nil {
			ns.sock.close()
			ns.sock = nil
		}
	}
	m.flush.Stop()
	m.reread.Stop()
	m.metrics.namespaces.Set(0)
	m.metrics.links.Set(0)
}

// withdraw takes from the graph all that is in it, because the probe failed and will start anew.
func (m *mirror) withdraw() error {
	return m.env.Graph.Update("", func(tx *graph.Tx) error {
		gone := slices.Clone(m.withdrawn)
		for _, ns := range m.namespaces {
			for _, l := range ns.links {
				gone = append(gone, l.node)
			}
			if ns != m.root {
				gone = append(gone, ns.node)
			}
		}
		for _, id := range gone {
			if err := tx.DeleteNode(id, 0); err != nil && !errors.Is(err, graph.ErrNotFound) {
				return err
			}
		}
		return nil
	})
}

// receive takes in what was read from a socket.
func (m *mirror) receive(in inbound) error {
	ns := in.from
	if in.buf != nil {
		for msg, err := range messages(in.buf.data[:in.buf.n]) {
			if ns.sock != in.sock {
				break // closed meanwhile
			}
			if err != nil {
				m.metrics.malformed.Inc()
				break
			}
			m.handle(ns, msg)
		}
		m.buffers.put(in.buf)
	}
	switch {
	case in.err == nil || ns.sock != in.sock:
	case errors.Is(in.err, errOverrun):
		m.metrics.overruns.Inc()
		m.lost(ns)
	default:
		return fmt.Errorf("network namespace %s: %w", ns.info, in.err)
	}
	return nil
}

// beat does what has time.
func (m *mirror) beat(now time.Time) {
	for _, ns := range m.namespaces {
		switch {
		case ns.sock == nil:
			if !errors.Is(ns.trouble, fs.ErrPermission) {
				m.open(ns)
			}
			continue
		case ns.stuck(now):
			// A reply never came. A new socket has no memory of it.
			m.env.Log.Warn("kernel does not answer, asking anew", "namespace", ns.info.String())
			m.metrics.resyncs.Inc()
			ns.sock.close()
			ns.sock = nil
			m.open(ns)
			continue
		case ns.overrun:
			ns.overrun = false
			m.resync(ns)
		}
		if !now.Before(ns.nextStats) {
			ns.nextStats = now.Add(m.cfg.MetricsUpdate)
			m.enqueue(ns, dump{what: dumpStats})
		}
		if !now.Before(ns.nextAudit) {
			ns.nextAudit = now.Add(audit)
			m.readAll(ns)
		}
		m.resolveRest(ns)
		m.proceed(ns)
		for _, l := range ns.links {
			if l.later != 0 {
				m.touch(l, l.later)
				l.later = 0
			}
		}
	}
	m.announce()
}

// announce tells that the first view is in the graph, and what it lacks.
func (m *mirror) announce() {
	var lacks []string
	blind, failed := false, error(nil)
	for _, ns := range m.namespaces {
		switch {
		case ns.sock != nil:
			if !ns.synced {
				return
			}
		case errors.Is(ns.trouble, fs.ErrPermission):
			blind = true
		case !errors.Is(ns.trouble, netns.ErrGone):
			failed = ns.trouble
		}
	}
	if !m.viewed || m.flushDue && !m.announced {
		return
	}
	if blind {
		lacks = append(lacks, "cannot look into other network namespaces: CAP_SYS_ADMIN is missing")
	}
	switch {
	case !m.hidden:
	case slices.Contains(probe.MissingCapabilities(), "CAP_SYS_PTRACE"):
		lacks = append(lacks, "cannot see the network namespaces of other users' processes: CAP_SYS_PTRACE is missing")
	default: // processes with more privileges than this one, or that a security module protects
		lacks = append(lacks, "some processes hide their network namespace")
	}
	if failed != nil {
		lacks = append(lacks, "cannot look into some network namespaces: "+failed.Error())
	}
	reason := strings.Join(lacks, "; ")
	if !m.announced || reason != m.lastReason {
		m.announced, m.lastReason = true, reason
		m.env.Running(reason)
	}
}
