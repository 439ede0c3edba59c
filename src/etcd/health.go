package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

const (
	lookInterval = 30 * time.Second // between looks at the health of the embedded server
	statusLimit  = time.Second      // for servers elsewhere to answer for a status
	statusAge    = 2 * time.Second  // of their last answer, before they are asked again
)

// Member is a server of the cluster.
type Member struct {
	Name    string // "" until it has started for the first time
	Peers   []string
	Clients []string
	Leader  bool
}

// Cluster is what is known about the servers.
type Cluster struct {
	Members []Member `json:",omitempty"`
	Size    int64    // bytes of the database file
	InUse   int64    // bytes of that which hold something
	Quota   int64    `json:",omitempty"` // bytes; at that size it is full
	Alarms  []string `json:",omitempty"` // "NOSPACE": full, "CORRUPT": members differ
}

// seen is a Cluster of servers elsewhere, and when they told it.
type seen struct {
	at     time.Time
	what   Cluster
	reason string
}

// Status tells how it stands. It may ask servers elsewhere, for at most a second.
func (s *Service) Status() State {
	s.mu.Lock()
	state := s.state
	s.mu.Unlock()
	if state.State != "running" {
		return state
	}
	if server := s.server.Load(); server != nil {
		state.Cluster = local(server)
		if trouble := s.trouble.Load(); trouble != nil {
			state.Reason = *trouble
		}
		if server.Server.Leader() == 0 {
			state.Reason = noLeader(state.Cluster)
		}
	} else if client := s.client.Load(); client != nil && !s.cfg.Embedded {
		s.asking.Lock()
		defer s.asking.Unlock()
		if time.Since(s.seen.at) > statusAge {
			s.seen = ask(client)
		}
		state.Cluster, state.Reason = s.seen.what, s.seen.reason
	}
	if slices.Contains(state.Cluster.Alarms, alarmFull) {
		state.Reason = ErrFull.Error()
	}
	if lost := s.lost.Load(); lost != nil {
		state.State, state.Since, state.Reason = "failing", *lost, cmp.Or(state.Reason, "no contact")
	}
	return state
}

var alarmFull = etcdserverpb.AlarmType_NOSPACE.String()

func noLeader(c Cluster) string {
	return fmt.Sprintf("no leader: %d of the %d members must be up and reach each other", len(c.Members)/2+1, len(c.Members))
}

// local is what the embedded server knows.
func local(e *embed.Etcd) (c Cluster) {
	leader := e.Server.Leader()
	for _, m := range e.Server.Cluster().Members() {
		c.Members = append(c.Members, Member{Name: m.Name, Peers: m.PeerURLs, Clients: m.ClientURLs, Leader: m.ID == leader})
	}
	db := e.Server.Backend()
	c.Size, c.InUse, c.Quota = db.Size(), db.SizeInUse(), e.Server.Cfg.QuotaBackendBytes
	for _, a := range e.Server.Alarms() {
		c.Alarms = append(c.Alarms, a.Alarm.String())
	}
	slices.Sort(c.Alarms)
	c.Alarms = slices.Compact(c.Alarms)
	return c
}

// ask asks servers elsewhere. What they do not tell – an unprivileged user learns no alarms – is missing.
func ask(client *clientv3.Client) seen {
	ctx, cancel := context.WithTimeout(context.Background(), statusLimit)
	defer cancel()
	var out seen
	var leader uint64
	var errs []error
	for _, at := range client.Endpoints() {
		status, err := client.Status(ctx, at)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", at, err))
			continue
		}
		out.what.Size, out.what.InUse, leader = status.DbSize, status.DbSizeInUse, status.Leader
		break
	}
	if len(errs) == len(client.Endpoints()) {
		out.reason = errors.Join(errs...).Error()
	}
	if members, err := client.MemberList(ctx, clientv3.WithSerializable()); err == nil {
		for _, m := range members.Members {
			out.what.Members = append(out.what.Members, Member{Name: m.Name, Peers: m.PeerURLs, Clients: m.ClientURLs, Leader: m.ID == leader})
		}
	}
	if alarms, err := client.AlarmList(ctx); err == nil {
		for _, a := range alarms.Alarms {
			out.what.Alarms = append(out.what.Alarms, a.Alarm.String())
		}
	}
	if leader == 0 && out.reason == "" {
		out.reason = noLeader(out.what)
	}
	out.at = time.Now()
	return out
}

// look makes room when the embedded server is full, and compares its members with the configuration, until ctx ends.
func (s *Service) look(ctx context.Context, e *embed.Etcd) {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	var failed time.Time // when room was last made in vain
	s.compare(ctx, e)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.compare(ctx, e)
		case <-s.full:
		}
		for _, a := range e.Server.Alarms() {
			if a.Alarm != etcdserverpb.AlarmType_NOSPACE || a.MemberID != uint64(e.Server.MemberID()) || time.Since(failed) < lookInterval/3 {
				continue
			}
			if err := s.makeRoom(ctx, e); err != nil && ctx.Err() == nil {
				failed = time.Now()
				s.opts.Log.Error("etcd is full", "size", e.Server.Backend().Size(), "quota", e.Server.Cfg.QuotaBackendBytes, "error", err)
			}
		}
	}
}

// compare finds members that are not in the configuration, and peers that are no members because they run a cluster of their own.
func (s *Service) compare(ctx context.Context, e *embed.Etcd) {
	if len(s.cfg.Peers) < 2 {
		return
	}
	known := map[string]bool{}
	var trouble []string
	for _, m := range e.Server.Cluster().Members() {
		for _, at := range m.PeerURLs {
			known[at] = true
			if now := s.cfg.readdressed(at); now != "" {
				known[now] = true
				trouble = append(trouble, s.cfg.stale([]Member{{Name: m.Name, Peers: []string{at}}}))
			} else if !slices.Contains(slices.Collect(maps.Values(s.cfg.Peers)), at) {
				trouble = append(trouble, fmt.Sprintf("member %s at %s is not one of etcd.peers: add it there on every analyzer or, if it is gone for good, DELETE %s/%s", m.Name, at, membersPath, m.ID))
			}
		}
	}
	client, done, err := s.web()
	if err != nil {
		return // the files were good when it started; each connection complains
	}
	defer done()
	for _, name := range slices.Sorted(maps.Keys(s.cfg.Peers)) {
		if at := s.cfg.Peers[name]; !known[at] {
			if a := askPeer(ctx, client, at); a.err == nil && a.waiting == "" {
				trouble = append(trouble, fmt.Sprintf("%s at %s runs a cluster of its own, %s", name, at, s.which(ctx, e, a.members)))
			}
		}
	}
	slices.Sort(trouble)
	now := strings.Join(trouble, "; ")
	if was := s.trouble.Load(); now != "" && (was == nil || *was != now) {
		s.opts.Log.Error("etcd: " + now)
	}
	s.trouble.Store(nil)
	if now != "" {
		s.trouble.Store(&now)
	}
}

// holding is what a cluster has, to tell which of two is worth keeping.
type holding struct{ keys, revision, size int64 }

func (h holding) String() string {
	return fmt.Sprintf("%d keys at revision %d in %d KiB", h.keys, h.revision, h.size>>10)
}

// holds asks a cluster what it has. It needs no quorum.
func holds(ctx context.Context, c *clientv3.Client, size int64) (h holding, err error) {
	for prefix, sign := range map[string]int64{"/": 1, elections: -1} { // offices come by themselves
		r, err := c.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithSerializable())
		if err != nil {
			return h, err
		}
		h.keys, h.revision = h.keys+sign*r.Count, r.Header.Revision
	}
	h.size = size
	return h, nil
}

// which says what is to be done about a cluster of others, of whose data and ours only one can stay.
func (s *Service) which(ctx context.Context, e *embed.Etcd, members []remote) string {
	const both = "and nobody knows what it has (%v): compare both, move the data directory of the one that has less away and start it again, and it joins"
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var addresses []string
	for _, m := range members {
		addresses = append(addresses, m.ClientURLs...)
	}
	if len(addresses) == 0 {
		return fmt.Sprintf(both, "it takes no requests yet")
	}
	here := v3client.New(e.Server)
	defer here.Close()
	ours, err := holds(ctx, here, e.Server.Backend().Size())
	if err != nil {
		return fmt.Sprintf(both, err)
	}
	there, err := s.dial(ctx, addresses, zap.NewNop())
	if err != nil {
		return fmt.Sprintf(both, err)
	}
	defer there.Close()
	var theirs holding
	status, err := there.Status(ctx, addresses[0])
	if err == nil {
		theirs, err = holds(ctx, there, status.DbSize)
	}
	if err != nil {
		return fmt.Sprintf(both, err)
	}
	text := fmt.Sprintf("with %s; here are %s: ", theirs, ours)
	switch c := cmp.Or(cmp.Compare(ours.keys, theirs.keys), cmp.Compare(ours.revision, theirs.revision)); {
	case c > 0:
		return text + "move its data directory away and start it again, and it joins this one"
	case c < 0:
		return text + "move " + s.cfg.DataDir + " away and start again here, and it joins that one"
	}
	return text + "move the data directory of either away and start it again, and it joins the other"
}

// makeRoom drops history, gives back what it took and, when that is enough, lets the server take values again.
func (s *Service) makeRoom(ctx context.Context, e *embed.Etcd) error {
	c := s.client.Load()
	if c == nil {
		return ErrNotReady
	}
	if _, err := c.Compact(ctx, e.Server.KV().Rev(), clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compact: %w", err)
	}
	db := e.Server.Backend()
	was := db.Size()
	if err := db.Defrag(); err != nil {
		return fmt.Errorf("defragment: %w", err)
	}
	if now := db.Size(); now > e.Server.Cfg.QuotaBackendBytes/10*9 {
		return errors.New("what it holds takes nearly all there is: delete captures, alerts or keys of others")
	}
	if _, err := c.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: uint64(e.Server.MemberID()), Alarm: etcdserverpb.AlarmType_NOSPACE}); err != nil {
		return fmt.Errorf("disarm: %w", err)
	}
	s.opts.Log.Warn("etcd was full of history, and takes values again", "was", was, "size", db.Size())
	return nil
}

// advise adds to why the embedded server does not start what can be done about it.
func (s *Service) advise(err error) error {
	text := err.Error()
	for _, sign := range []string{"permission denied", "address already in use", "no space left", "is in use", "cannot assign", "too many open files", "certificate", "TLS"} {
		if strings.Contains(text, sign) {
			return err // that says it
		}
	}
	if len(s.cfg.Peers) > 1 {
		return fmt.Errorf("%w (if its data is damaged: move %s away and start again, and it gets all from the other members)", err, s.cfg.DataDir)
	}
	return fmt.Errorf("%w (if its data is damaged: put back a copy of %s, or move it away and start without captures, alerts and policy)", err, s.cfg.DataDir)
}
