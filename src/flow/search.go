package flow

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"skydive/src/field"
)

// SortOrder is the order of a search. The numbers are those of the public schema.
type SortOrder uint8

// All orders; none means ascending.
const (
	NoOrder SortOrder = iota
	Ascending
	Descending
)

var orderNames = [...]string{"NoOrder", "Ascending", "Descending"}

// What a search sorts and deduplicates by when it does not say.
const (
	defaultSort  = "Last"
	defaultDedup = "TrackingID"
)

// Search is a question for flows: those that pass Filter, sorted, one per value of DedupBy, and of what remains From to To (0: all).
type Search struct {
	Filter   *Filter
	From, To int64
	Sort     bool
	SortBy   string // "": Last
	Order    SortOrder
	Dedup    bool
	DedupBy  string // "": TrackingID
}

// Apply answers the search from flows. Flows that sort alike, and all of them when the search does not sort, keep their order: merged
// answers must be given in an order that does not vary. It may reorder flows, and the result may share their memory.
func (s *Search) Apply(flows []*Flow) []*Flow {
	if s.Filter != nil {
		flows = slices.DeleteFunc(flows, func(f *Flow) bool { return !s.Filter.Match(f) })
	}
	return s.Finish(flows)
}

// Finish is Apply on flows that have passed the filter: what several agents answered.
func (s *Search) Finish(flows []*Flow) []*Flow {
	if s.Sort {
		s.sort(flows)
	}
	if s.Dedup {
		flows = s.dedup(flows)
	}
	if s.To > 0 && s.To < int64(len(flows)) {
		flows = flows[:max(s.To, 0)]
	}
	return flows[min(max(s.From, 0), int64(len(flows))):]
}

// Part returns what to ask each of several agents so that Finish on all their answers answers s: only the analyzer can tell which are
// the first.
func (s *Search) Part() *Search {
	part := *s
	part.From = 0
	return &part
}

// Addable tells whether totals of the parts add up to the total of s: not when flows of different agents displace each other.
func (s *Search) Addable() bool { return !s.Dedup && s.From <= 0 && s.To <= 0 }

func (s *Search) sort(flows []*Flow) {
	key := s.SortBy
	if key == "" {
		key = defaultSort
	}
	type keyed struct {
		f    *Flow
		n    int64
		text string
		rank int8 // numbers, texts, nothing
	}
	list := make([]keyed, len(flows))
	for i, f := range flows {
		k := keyed{f: f, rank: 2}
		switch v, _ := f.Field(key); v := v.(type) {
		case int64:
			k.n, k.rank = v, 0
		case string:
			k.text, k.rank = v, 1
		}
		list[i] = k
	}
	slices.SortStableFunc(list, func(a, b keyed) int {
		if a.rank != b.rank {
			return cmp.Compare(a.rank, b.rank)
		}
		c := cmp.Compare(a.n, b.n)
		if c == 0 {
			c = cmp.Compare(a.text, b.text)
		}
		if s.Order == Descending {
			return -c
		}
		return c
	})
	for i := range list {
		flows[i] = list[i].f
	}
}

// dedup keeps the first flow of each value; those without a value stay.
func (s *Search) dedup(flows []*Flow) []*Flow {
	key := s.DedupBy
	if key == "" {
		key = defaultDedup
	}
	seen := make(map[field.Value]struct{}, len(flows))
	var buf []byte
	return slices.DeleteFunc(flows, func(f *Flow) bool {
		v, ok := f.Field(key)
		if !ok {
			return false
		}
		switch v.(type) {
		case field.List, field.Object: // not comparable
			buf = field.AppendJSON(buf[:0], v)
			v = string(buf)
		}
		_, dup := seen[v]
		seen[v] = struct{}{}
		return dup
	})
}

// AppendProto appends the search as message SearchQuery.
func (s *Search) AppendProto(dst []byte) []byte {
	if s.Filter != nil {
		dst = append(protowire.AppendTag(dst, 1, protowire.BytesType), 0)
		dst = closeNested(s.Filter.AppendProto(dst), len(dst))
	}
	if s.From != 0 || s.To != 0 {
		dst = append(protowire.AppendTag(dst, 2, protowire.BytesType), 0)
		dst = closeNested(appendNumber(appendNumber(dst, 1, uint64(s.From)), 2, uint64(s.To)), len(dst))
	}
	dst = appendNumber(dst, 3, bit(s.Sort))
	dst = appendNumber(dst, 4, bit(s.Dedup))
	dst = appendText(dst, 5, s.DedupBy, false)
	dst = appendText(dst, 6, s.SortBy, false)
	return appendNumber(dst, 7, uint64(s.Order))
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// UnmarshalProto replaces s with the SearchQuery in b.
func (s *Search) UnmarshalProto(b []byte) error {
	*s = Search{}
	return eachField(b, func(num protowire.Number, n uint64, data []byte) (err error) {
		switch {
		case num == 1 && data != nil:
			s.Filter, err = decodeFilter(data, 0)
		case num == 2 && data != nil:
			err = eachField(data, func(num protowire.Number, n uint64, _ []byte) error {
				switch num {
				case 1:
					s.From = int64(n)
				case 2:
					s.To = int64(n)
				}
				return nil
			})
		case num == 3:
			s.Sort = n != 0
		case num == 4:
			s.Dedup = n != 0
		case num == 5:
			s.DedupBy = string(data)
		case num == 6:
			s.SortBy = string(data)
		case num == 7:
			if n > uint64(Descending) {
				return fmt.Errorf("unknown sort order %d", n)
			}
			s.Order = SortOrder(n)
		}
		return err
	})
}

// AppendJSON appends the search as public agents of the JSON protocol read it.
func (s *Search) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	first := len(dst)
	key := func(name string) {
		if len(dst) > first {
			dst = append(dst, ',')
		}
		dst = append(appendName(dst, name), ':')
	}
	if s.Filter != nil {
		key("Filter")
		dst = s.Filter.AppendJSON(dst)
	}
	if s.From != 0 || s.To != 0 {
		key("PaginationRange")
		dst = strconv.AppendInt(append(dst, `{"From":`...), s.From, 10)
		dst = strconv.AppendInt(append(dst, `,"To":`...), s.To, 10)
		dst = append(dst, '}')
	}
	if s.Sort {
		key("Sort")
		dst = append(dst, "true"...)
	}
	if s.Dedup {
		key("Dedup")
		dst = append(dst, "true"...)
	}
	if s.DedupBy != "" {
		key("DedupBy")
		dst = field.AppendString(dst, s.DedupBy)
	}
	if s.SortBy != "" {
		key("SortBy")
		dst = field.AppendString(dst, s.SortBy)
	}
	if s.Order != NoOrder {
		key("SortOrder")
		dst = strconv.AppendInt(dst, int64(s.Order), 10)
	}
	return append(dst, '}')
}

// read replaces s with a search in JSON.
func (s *Search) read(o field.Object) error {
	*s = Search{DedupBy: o.Text("DedupBy"), SortBy: o.Text("SortBy")}
	v, _ := o.Get("Filter")
	if v != nil {
		var err error
		if s.Filter, err = readFilter(v, 0); err != nil {
			return err
		}
	}
	s.From, _ = o.Int("PaginationRange.From")
	s.To, _ = o.Int("PaginationRange.To")
	v, _ = o.Get("Sort")
	s.Sort, _ = v.(bool)
	v, _ = o.Get("Dedup")
	s.Dedup, _ = v.(bool)
	order, err := readEnum(o, "SortOrder", orderNames[:])
	s.Order = SortOrder(order)
	return err
}
