package analyzer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/query"
	"skydive/src/wire"
)

// inquiry is one question of a user, which may take several to the archives. Who fails to answer one is not asked the next.
type inquiry struct {
	a       *ArchivedFlows
	ctx     context.Context
	hosts   []string // to ask
	missing []string
}

func (a *ArchivedFlows) inquire(ctx context.Context) *inquiry {
	q := &inquiry{a: a, ctx: ctx}
	for _, host := range a.o.Peers.Absent() {
		q.lacks(host, "absent", errAbsent)
	}
	for _, host := range a.o.Peers.Hosts() {
		switch {
		case host == a.o.HostID:
		case a.members.mute(host, time.Now()):
			q.lacks(host, "absent", errMute)
		default:
			q.hosts = append(q.hosts, host)
		}
	}
	slices.Sort(q.hosts)
	q.hosts = slices.Compact(q.hosts)
	return q
}

func (q *inquiry) lacks(host, result string, err error) {
	q.a.asked.WithLabelValues(result).Inc()
	q.missing = append(q.missing, host)
	q.a.members.failed(host, err)
}

// err is the error of the whole: err itself or, without one, who is missing.
func (q *inquiry) err(err error) error {
	if err != nil || len(q.missing) == 0 {
		return err
	}
	slices.Sort(q.missing)
	return query.Missing(slices.Compact(q.missing))
}

// askAll puts a question to the archive of this analyzer and those of all others at the same time, and returns the answers in the order of
// the host ids, which does not depend on who asks. An error is that of this archive, of ctx, or of who asks: too much at once.
func askAll[T any](q *inquiry, local func(context.Context) (T, error), remote func(ctx context.Context, host string) (T, error)) ([]T, error) {
	ctx, cancel := context.WithCancel(q.ctx)
	defer cancel()
	n := len(q.hosts)
	answers, errs := make([]T, n+1), make([]error, n+1)
	var asking sync.WaitGroup
	asking.Go(func() {
		if answers[n], errs[n] = local(ctx); errs[n] != nil {
			cancel()
		}
	})
	for i, host := range q.hosts {
		asking.Go(func() {
			start := time.Now()
			if answers[i], errs[i] = remote(ctx, host); errs[i] == nil {
				q.a.seconds.Observe(time.Since(start).Seconds())
			} else if usage(errs[i]) {
				cancel()
			}
		})
	}
	asking.Wait()
	if err := q.ctx.Err(); err != nil {
		return nil, fmt.Errorf("ask archives: %w", err)
	}
	for _, err := range append([]error{errs[n]}, errs[:n]...) {
		if err != nil && usage(err) {
			return nil, err
		}
	}
	if errs[n] != nil {
		return nil, errs[n]
	}
	var out []T
	var answered []string
	own := false
	for i, host := range q.hosts {
		if !own && host > q.a.o.HostID {
			out, own = append(out, answers[n]), true
		}
		if errs[i] != nil {
			q.lacks(host, "failed", errs[i])
			continue
		}
		q.a.asked.WithLabelValues("answered").Inc()
		q.a.members.answered(host)
		out, answered = append(out, answers[i]), append(answered, host)
	}
	if !own {
		out = append(out, answers[n])
	}
	q.hosts = answered
	return out, nil
}

// usage tells whether an error is up to who asks.
func usage(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Usage() bool
	}](err)
	return ok && e.Usage()
}

// refused is what another analyzer answers to a question that its archive finds too large.
type refused string

func (r refused) Error() string { return string(r) }

// Usage tells that it is up to who asks.
func (refused) Usage() bool { return true }

var (
	errAbsent = errors.New("it is not connected")
	errMute   = errors.New("it has not answered before, and is not asked for a while: only analyzers of this version answer")
)

// request puts one question to one analyzer, and takes its answer part by part.
func (a *ArchivedFlows) request(ctx context.Context, host, typ string, q *flow.ArchiveQuery, take func(*flow.ArchiveReply)) error {
	parts := int64(1)
	for part, size := int64(0), 0; part < parts; part++ {
		r, n, err := a.message(ctx, host, typ, q)
		switch {
		case err != nil:
			return err
		case part == 0 && r.Parts > 1:
			parts = r.Parts
		case r.Parts != parts && part > 0:
			return fmt.Errorf("analyzer %s: part %d of an answer does not belong to it", host, part)
		}
		if size += n; size > 2*maxAnswer {
			return fmt.Errorf("analyzer %s: %w", host, errTooLarge)
		}
		take(r)
		typ, q = wire.TypeArchiveNext, &flow.ArchiveQuery{Token: r.Token, Part: part + 1}
	}
	return nil
}

var errTooLarge = errors.New("its answer is too large")

// message asks for one message, and returns its size too.
func (a *ArchivedFlows) message(ctx context.Context, host, typ string, q *flow.ArchiveQuery) (*flow.ArchiveReply, int, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	m, err := a.o.Peers.Request(ctx, host, &wire.Message{
		Namespace: wire.NamespaceArchive, Type: typ, UUID: graph.NewID(), Status: 200, Body: wire.Base64(q.AppendProto(nil)),
	})
	if err != nil {
		return nil, 0, err
	}
	b, err := m.Bytes()
	r := new(flow.ArchiveReply)
	if err == nil {
		err = r.UnmarshalProto(b)
	}
	switch {
	case m.Status == 400 && err == nil:
		return nil, 0, refused(r.Error)
	case m.Status >= 400:
		return nil, 0, fmt.Errorf("analyzer %s answers with status %d: %s", host, m.Status, cmp.Or(r.Error, string(m.Obj)))
	case err != nil:
		return nil, 0, fmt.Errorf("analyzer %s: %w", host, err)
	}
	return r, len(b), nil
}

// series asks for series of flows, some flows at a time.
func (a *ArchivedFlows) series(ctx context.Context, host, typ string, from, to time.Time, flows []*flow.Flow, take func(flow.ArchiveSeries)) error {
	for some := range slices.Chunk(flows, flow.MaxArchiveFlows) {
		err := a.request(ctx, host, typ, &flow.ArchiveQuery{From: from.UnixMilli(), To: to.UnixMilli(), Flows: some}, func(r *flow.ArchiveReply) {
			for _, s := range r.Series {
				take(s)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// members remembers how the other analyzers answer.
type members struct {
	log *slog.Logger
	mu  sync.Mutex // guards of
	of  map[string]*member
}

type member struct {
	answers bool      // it ever did
	silent  time.Time // when it last let a question time out
	reason  string    // why it is missing, "" when it is not
}

const (
	muteFor     = time.Minute
	mostMembers = 1024
)

// get is called with mu held.
func (m *members) get(host string) *member {
	if m.of == nil || len(m.of) >= mostMembers && m.of[host] == nil {
		m.of = make(map[string]*member)
	}
	if m.of[host] == nil {
		m.of[host] = new(member)
	}
	return m.of[host]
}

// mute tells that a host has let a question time out and never answered one: who waits for it again waits in vain.
func (m *members) mute(host string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.of[host]
	return k != nil && !k.answers && !k.silent.IsZero() && now.Sub(k.silent) < muteFor
}

func (m *members) answered(host string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.get(host)
	if k.reason != "" {
		m.log.Info("The archive of an analyzer answers again", "analyzer", host)
	}
	*k = member{answers: true}
}

// failed tells the log of each reason once.
func (m *members) failed(host string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.get(host)
	reason := err.Error()
	if errors.Is(err, context.DeadlineExceeded) {
		k.silent, reason = time.Now(), "it does not answer"
	}
	if k.reason == "" || k.reason != reason && !errors.Is(err, errMute) {
		m.log.Warn("Flows of an analyzer are missing in an answer", "analyzer", host, "error", err)
		k.reason = reason
	}
}
