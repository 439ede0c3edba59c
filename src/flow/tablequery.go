package flow

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"skydive/src/field"
)

// Aggregate asks for a total instead of flows: how many there are, and the sum of a metric.
type Aggregate struct{ Metric MetricKind }

// MetricKind names a metric of a flow.
type MetricKind uint8

// All kinds.
const (
	NoMetric MetricKind = iota
	Latest              // LastUpdateMetric, or Metric where there is none yet: what the Metrics step shows
	Whole               // Metric
	Update              // LastUpdateMetric, nothing where there is none yet
)

// Total is the answer to an Aggregate.
type Total struct {
	Count  int64
	Metric Metric
}

// Add counts a flow.
func (t *Total) Add(f *Flow, a Aggregate) {
	t.Count++
	switch {
	case a.Metric == Latest:
		t.Metric.Add(f.Latest())
	case a.Metric == Whole:
		t.Metric.Add(&f.Metric)
	case a.Metric == Update && f.LastUpdateMetric != nil:
		t.Metric.Add(f.LastUpdateMetric)
	}
}

// Merge adds the total of other flows.
func (t *Total) Merge(o *Total) {
	t.Count += o.Count
	t.Metric.Add(&o.Metric)
}

// Latest is the metric of the last report interval, or of the whole flow before its first report.
func (f *Flow) Latest() *Metric {
	if f.LastUpdateMetric != nil {
		return f.LastUpdateMetric
	}
	return &f.Metric
}

// TableQuery is what an analyzer asks of the flow tables of an agent.
type TableQuery struct {
	Search    Search
	Aggregate *Aggregate // nil: the flows
}

// TableReply is what an agent answers: an encoded Set per table, or with Total set the total of all of them.
type TableReply struct {
	Status int64    // as of HTTP; 200 is success
	Sets   [][]byte // FlowSet, see Set
	Total  *Total   // nil from agents that do not know Aggregate: take the total of their flows
}

const searchType = "SearchQuery"

// Numbers of our own, far from those of the public schema.
const (
	numAggregate = 100 // of TableQuery; the kind of metric plus one. Older agents skip it and answer with the flows
	numTotal     = 100 // of TableReply
)

var totalColumns = []column[Total]{
	{num: 1, json: "Count", show: always, ref: func(t *Total) any { return &t.Count }},
	{num: 2, json: "Metric", show: always, ref: func(t *Total) any { return &t.Metric }},
}

// AppendProto appends the query as message TableQuery.
func (q *TableQuery) AppendProto(dst []byte) []byte {
	dst = appendText(dst, 1, searchType, false)
	dst = append(protowire.AppendTag(dst, 2, protowire.BytesType), 0)
	dst = closeNested(q.Search.AppendProto(dst), len(dst))
	if q.Aggregate != nil {
		dst = appendNumber(dst, numAggregate, uint64(q.Aggregate.Metric)+1)
	}
	return dst
}

// AppendJSON appends the query for an agent of the JSON protocol.
func (q *TableQuery) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"Type":"`+searchType+`","query":`...)
	dst = q.Search.AppendJSON(dst)
	if q.Aggregate != nil {
		dst = strconv.AppendInt(append(dst, `,"Aggregate":`...), int64(q.Aggregate.Metric)+1, 10)
	}
	return append(dst, '}')
}

// ParseTableQuery reads a query, in protobuf or in JSON as its message says.
func ParseTableQuery(obj []byte, protobuf bool) (*TableQuery, error) {
	q := &TableQuery{}
	typ := ""
	if protobuf {
		err := eachField(obj, func(num protowire.Number, n uint64, data []byte) error {
			switch {
			case num == 1:
				typ = string(data)
			case num == 2 && data != nil:
				return q.Search.UnmarshalProto(data)
			case num == numAggregate:
				return q.setAggregate(n)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	} else {
		var o field.Object
		if err := o.UnmarshalJSON(obj); err != nil {
			return nil, err
		}
		typ = o.Text("Type")
		v, _ := o.Get("query")
		query, _ := v.(field.Object)
		if err := q.Search.read(query); err != nil {
			return nil, err
		}
		what, _ := o.Int("Aggregate")
		if err := q.setAggregate(uint64(what)); err != nil {
			return nil, err
		}
	}
	if typ != searchType {
		return nil, fmt.Errorf("unknown query %q of flow tables", typ)
	}
	return q, nil
}

func (q *TableQuery) setAggregate(n uint64) error {
	if n > uint64(Update)+1 {
		return fmt.Errorf("unknown metric %d of a total", n)
	}
	if n > 0 {
		q.Aggregate = &Aggregate{MetricKind(n - 1)}
	}
	return nil
}

// AppendProto appends the reply as message TableReply.
func (r *TableReply) AppendProto(dst []byte) []byte {
	dst = appendNumber(dst, 1, uint64(r.Status))
	for _, set := range r.Sets {
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 2, protowire.BytesType), set)
	}
	return appendPointer(dst, numTotal, totalColumns, r.Total)
}

// AppendJSON appends the reply for an analyzer that asked in JSON.
func (r *TableReply) AppendJSON(dst []byte) []byte {
	dst = strconv.AppendInt(append(dst, `{"Status":`...), r.Status, 10)
	dst = append(dst, `,"FlowSetBytes":[`...)
	for i, set := range r.Sets {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(base64.StdEncoding.AppendEncode(append(dst, '"'), set), '"')
	}
	dst = append(dst, ']')
	if r.Total != nil {
		dst = appendObject(append(dst, `,"Total":`...), totalColumns, r.Total)
	}
	return append(dst, '}')
}

// ParseTableReply reads a reply, in protobuf or in JSON as its message says. Sets share the memory of obj in protobuf.
func ParseTableReply(obj []byte, protobuf bool) (*TableReply, error) {
	r := &TableReply{}
	if protobuf {
		return r, eachField(obj, func(num protowire.Number, n uint64, data []byte) error {
			switch {
			case num == 1:
				r.Status = int64(n)
			case num == 2 && data != nil:
				r.Sets = append(r.Sets, data)
			case num == numTotal && data != nil:
				r.Total = new(Total)
				return decodeRecord(newSource(data), data, totalColumns, r.Total)
			}
			return nil
		})
	}
	var o field.Object
	if err := o.UnmarshalJSON(obj); err != nil {
		return nil, err
	}
	r.Status, _ = o.Int("Status")
	v, _ := o.Get("FlowSetBytes")
	sets, ok := v.(field.List)
	if v != nil && !ok {
		return nil, errors.New("FlowSetBytes is not a list")
	}
	for _, v := range sets {
		var set []byte
		if err := readValue(v, &set); err != nil {
			return nil, fmt.Errorf("FlowSetBytes: %w", err)
		}
		r.Sets = append(r.Sets, set)
	}
	if v, _ := o.Get("Total"); v != nil {
		r.Total = new(Total)
		if err := readObject(v, totalColumns, r.Total); err != nil {
			return nil, fmt.Errorf("Total: %w", err)
		}
	}
	return r, nil
}

// Flows decodes the flows of all sets.
func (r *TableReply) Flows() ([]*Flow, error) {
	var all []*Flow
	for _, b := range r.Sets {
		var set Set
		if err := set.UnmarshalProto(b); err != nil {
			return nil, err
		}
		all = append(all, set.Flows...)
	}
	return all, nil
}
