package api

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"slices"
	"strings"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/gremlin"
	"skydive/src/query"
)

// partialHeader names the hosts that did not answer a query, whose answer lacks what they know.
const partialHeader = "X-Skydive-Partial"

const (
	dotType  = "text/vnd.graphviz"
	pcapType = "application/vnd.tcpdump.pcap"
)

// topology answers the whole graph, not wrapped in a list as the query G is.
func (s *Server) topology(w http.ResponseWriter, r *http.Request) error {
	snapshot := s.Graph.Snapshot()
	if r.Header.Get("Accept") == dotType {
		whole, err := query.Run(r.Context(), &gremlin.Query{}, query.Source{Graph: snapshot})
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", dotType+"; charset=UTF-8")
		return query.WriteDOT(r.Context(), w, whole)
	}
	out := newStream(r.Context(), w)
	out.text(`{"Nodes":`)
	writeList(out, snapshot.Nodes(field.Filter{}), (*graph.Node).AppendJSON)
	out.text(`,"Edges":`)
	writeList(out, snapshot.Edges(field.Filter{}), (*graph.Edge).AppendJSON)
	out.text("}\n")
	return out.end()
}

// query answers a Gremlin query in the form asked for by Accept: JSON unless DOT or pcap is named, and nothing else.
func (s *Server) query(w http.ResponseWriter, r *http.Request) error {
	data, err := body(r)
	if err != nil {
		return err
	}
	var ask struct{ GremlinQuery string }
	if len(bytes.TrimSpace(data)) > 0 {
		if err := json.Unmarshal(data, &ask); err != nil {
			return &failure{http.StatusBadRequest, err}
		}
	}
	if ask.GremlinQuery == "" {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	parsed, err := gremlin.Parse(ask.GremlinQuery)
	if err != nil {
		return err
	}
	plan, err := query.Compile(parsed, s.Steps)
	if err != nil {
		return err
	}
	run := func(w http.ResponseWriter, r *http.Request) error { return s.run(w, r, plan) }
	if asksPackets(plan) {
		return s.guarded("capture", "rawpackets", run)(w, r)
	}
	return run(w, r)
}

// asksPackets tells whether a query may hand out what is in packets, or go by it.
func asksPackets(p *query.Plan) bool {
	text := p.String()
	return strings.Contains(text, "RawPackets(") || strings.Contains(text, "LastRawPackets")
}

// run answers a query.
func (s *Server) run(w http.ResponseWriter, r *http.Request, plan *query.Plan) error {
	ctx := r.Context()
	source := s.Source()
	var missing []string
	source.Partial = func(hosts []string) { missing = append(missing, hosts...) }
	result, err := plan.Run(ctx, source)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		w.Header().Set(partialHeader, strings.Join(slices.Compact(missing), ","))
	}
	switch r.Header.Get("Accept") {
	case dotType:
		if _, ok := result.(query.Graph); !ok {
			return failf(http.StatusNotAcceptable, "Error while encoding response: %w", query.ErrNotGraph)
		}
		w.Header().Set("Content-Type", dotType+"; charset=UTF-8")
		return query.WriteDOT(ctx, w, result)
	case pcapType:
		return writePcap(w, result)
	}
	w.Header().Set("Content-Type", jsonType)
	if err := result.WriteJSON(ctx, w); err != nil {
		return err
	}
	_, err = w.Write([]byte("\n"))
	return err
}

// stream writes JSON that may be large, in pieces, and ends with its request.
type stream struct {
	ctx context.Context
	w   http.ResponseWriter
	buf []byte
	err error
}

const streamBuffer = 64 << 10

func newStream(ctx context.Context, w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", jsonType)
	return &stream{ctx: ctx, w: w}
}

func (s *stream) text(t string) { s.buf = append(s.buf, t...) }

// ok is called after each element, and tells whether to go on.
func (s *stream) ok() bool {
	if len(s.buf) >= streamBuffer {
		s.flush()
	}
	return s.err == nil
}

func (s *stream) flush() {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err == nil {
		_, s.err = s.w.Write(s.buf)
	}
	s.buf = s.buf[:0]
}

func (s *stream) end() error {
	s.flush()
	return s.err
}

// writeList writes a JSON list; one without elements is null, as public clients are used to.
func writeList[T any](s *stream, list iter.Seq[T], element func(T, []byte) []byte) {
	before := byte('[')
	for e := range list {
		s.buf = element(e, append(s.buf, before))
		before = ','
		if !s.ok() {
			return
		}
	}
	if before == '[' {
		s.text("null")
		return
	}
	s.text("]")
}

// writeMap writes a JSON object of elements by their identifiers.
func writeMap[T any](s *stream, list iter.Seq2[string, T], element func(T, []byte) []byte) {
	before := byte('{')
	for id, e := range list {
		s.buf = field.AppendString(append(s.buf, before), id)
		s.buf = element(e, append(s.buf, ':'))
		before = ','
		if !s.ok() {
			return
		}
	}
	if before == '{' {
		s.text("{")
	}
	s.text("}\n")
}
