package analyzer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/query"
	"skydive/src/wire"
)

// ArchiveAnswers answers what other analyzers ask of the archive of this one.
type ArchiveAnswers struct {
	storage query.Storage // nil: there is none
	log     *slog.Logger
	busy    chan struct{}          // has room for as many questions as are worked on at the same time
	asked   *prometheus.CounterVec // result: answered | refused | failed
	timeout time.Duration

	mu   sync.Mutex // guards the rest
	held map[string]*heldAnswer
	size int // bytes of all held
}

// heldAnswer is an answer in parts, which are asked for one by one: what a link carries besides must not wait for all of it.
type heldAnswer struct {
	parts  [][]byte
	size   int
	forget *time.Timer
}

const (
	maxAnswer  = 256 << 20 // bytes of one answer
	maxHeld    = 512 << 20 // bytes of all answers that are held
	maxAnswers = 4         // questions that are worked on at the same time
)

// NewArchiveAnswers returns what answers from an archive, nil where there is none; reg may be nil.
func NewArchiveAnswers(storage query.Storage, log *slog.Logger, reg prometheus.Registerer) *ArchiveAnswers {
	a := &ArchiveAnswers{
		storage: storage, log: log, busy: make(chan struct{}, maxAnswers), held: make(map[string]*heldAnswer), timeout: archiveDeadline,
		asked: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "skydive", Subsystem: "archive_answers", Name: "questions_total", Help: "Questions of other analyzers to the archive of this one, by result.",
		}, []string{"result"}),
	}
	if reg != nil {
		reg.MustRegister(a.asked)
	}
	return a
}

// Reasons for which there is no answer.
var (
	errNoArchive = errors.New("this analyzer keeps no flows")
	errBusy      = errors.New("too many questions are being answered")
	errGone      = errors.New("this answer is not held any more")
)

// badQuestion is a question that cannot be read.
type badQuestion struct{ error }

func (q badQuestion) Unwrap() error { return q.error }

// Answer answers one question of the namespace Archive. It takes as long as the archive does, at most the time that who asks waits. It
// returns nil for what is none, as answers that come too late are: two analyzers must not answer each other for ever.
func (a *ArchiveAnswers) Answer(ctx context.Context, m *wire.Message) *wire.Message {
	if m.Namespace != wire.NamespaceArchive || m.Status >= 400 || strings.HasSuffix(m.Type, wire.ReplySuffix) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	part, token, parts, err := a.survive(ctx, m)
	status, result := int64(200), "answered"
	var bad badQuestion
	switch {
	case err == nil:
	case usage(err):
		status, result = 400, "refused"
	case errors.As(err, &bad):
		status, result = 422, "refused"
	case errors.Is(err, errBusy):
		status, result = 503, "refused"
	case errors.Is(err, errNoArchive):
		status, result = 501, "refused"
	case errors.Is(err, errGone):
		status, result = 410, "refused"
	case ctx.Err() != nil: // nobody waits any longer
		status, result = 504, "failed"
	default:
		status, result = 500, "failed"
		a.log.Warn("A question of another analyzer was not answered", "question", m.Type, "error", err)
	}
	a.asked.WithLabelValues(result).Inc()
	var obj []byte
	if err != nil {
		obj = (&flow.ArchiveReply{Error: err.Error()}).AppendProto(nil)
	} else {
		obj = flow.AppendArchivePart(nil, part, token, parts)
	}
	reply := m.Reply(m.Type+wire.ReplySuffix, status, nil)
	if reply.Format = m.Format; m.Format == wire.FormatProtobuf {
		reply.Obj = obj
	} else {
		reply.Body = wire.Base64(obj)
	}
	return reply
}

// survive is answer; a panic, which would be a fault of ours, costs this answer only.
func (a *ArchiveAnswers) survive(ctx context.Context, m *wire.Message) (part []byte, token string, n int, err error) {
	defer func() {
		if r := recover(); r != nil {
			a.log.Error("panic while answering another analyzer", "question", m.Type, "panic", r, "stack", string(debug.Stack()))
			err = errors.New("internal error")
		}
	}()
	return a.answer(ctx, m)
}

// answer returns one part, and how the others are had.
func (a *ArchiveAnswers) answer(ctx context.Context, m *wire.Message) (part []byte, token string, n int, err error) {
	b, err := m.Bytes()
	if err != nil {
		return nil, "", 0, badQuestion{err}
	}
	q := new(flow.ArchiveQuery)
	if err := q.UnmarshalProto(b); err != nil {
		return nil, "", 0, badQuestion{err}
	}
	if m.Type == wire.TypeArchiveNext {
		part, n, err := a.next(q.Token, q.Part)
		return part, q.Token, n, err
	}
	if a.storage == nil {
		return nil, "", 0, errNoArchive
	}
	select {
	case a.busy <- struct{}{}:
		defer func() { <-a.busy }()
	case <-ctx.Done():
		return nil, "", 0, errBusy
	}
	var parts flow.ArchiveParts
	if whole, err := a.ask(ctx, m.Type, q, &parts); err != nil {
		return nil, "", 0, err
	} else if whole != nil {
		return whole, "", 1, nil
	}
	list := parts.Parts()
	if len(list) > 1 {
		if token, err = a.hold(list, parts.Size()); err != nil {
			return nil, "", 0, err
		}
	}
	return list[0], token, len(list), nil
}

// ask asks the archive; a total is the whole answer.
func (a *ArchiveAnswers) ask(ctx context.Context, typ string, q *flow.ArchiveQuery, parts *flow.ArchiveParts) (whole []byte, err error) {
	from, to := time.UnixMilli(q.From), time.UnixMilli(q.To)
	switch typ {
	case wire.TypeArchiveFlows:
		found, err := a.storage.Flows(ctx, from, to, &q.Search)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			if parts.Flow(f); parts.Size() > maxAnswer {
				return nil, tooMany{}
			}
		}
	case wire.TypeArchiveNodes:
		nodes, err := nodesIn(ctx, a.storage, from, to, q.Search.Filter)
		if err != nil {
			return nil, err
		}
		for _, node := range nodes {
			parts.Flow(&flow.Flow{NodeTID: node})
		}
	case wire.TypeArchiveTotal:
		t, err := total(ctx, a.storage, from, to, time.UnixMilli(q.Since), &q.Search, q.Aggregate)
		if err != nil {
			return nil, err
		}
		return (&flow.ArchiveReply{Total: &t}).AppendProto(nil), nil
	case wire.TypeArchiveMetrics:
		found, err := a.storage.FlowMetrics(ctx, from, to, q.Flows)
		if err != nil {
			return nil, err
		}
		for _, uuid := range slices.Sorted(maps.Keys(found)) {
			if parts.Series(uuid, found[uuid], nil); parts.Size() > maxAnswer {
				return nil, tooMany{}
			}
		}
	case wire.TypeArchiveRawPackets:
		found, err := a.storage.RawPackets(ctx, from, to, q.Flows)
		if err != nil {
			return nil, err
		}
		for _, uuid := range slices.Sorted(maps.Keys(found)) {
			if parts.Series(uuid, nil, found[uuid]); parts.Size() > 2*maxAnswer {
				return nil, tooMany{}
			}
		}
	default:
		return nil, badQuestion{fmt.Errorf("unknown question %q to an archive", typ)}
	}
	return nil, nil
}

// hold keeps an answer until all of it was asked for, or nobody asks.
func (a *ArchiveAnswers) hold(parts [][]byte, size int) (token string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.size+size > maxHeld {
		return "", errBusy
	}
	token = graph.NewID()
	a.size += size
	a.held[token] = &heldAnswer{parts: parts, size: size, forget: time.AfterFunc(2*a.timeout, func() { a.drop(token) })}
	return token, nil
}

func (a *ArchiveAnswers) next(token string, part int64) ([]byte, int, error) {
	a.mu.Lock()
	h := a.held[token]
	a.mu.Unlock()
	switch {
	case h == nil:
		return nil, 0, errGone
	case part < 0 || part >= int64(len(h.parts)):
		return nil, 0, badQuestion{fmt.Errorf("there is no part %d of %d", part, len(h.parts))}
	}
	if part == int64(len(h.parts))-1 {
		a.drop(token)
	} else {
		h.forget.Reset(2 * a.timeout)
	}
	return h.parts[part], len(h.parts), nil
}

func (a *ArchiveAnswers) drop(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if h := a.held[token]; h != nil {
		h.forget.Stop()
		a.size -= h.size
		delete(a.held, token)
	}
}
