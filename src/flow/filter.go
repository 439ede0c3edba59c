package flow

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"skydive/src/field"
)

// FilterKind says what a Filter tests. The numbers are those of the public schema.
type FilterKind uint8

// All kinds. All but Bool test the field Key; Everything is a filter without a member.
const (
	Everything FilterKind = iota
	TermString            // equals Text
	TermInt64             // equals Num
	TermBool              // equals Num ≠ 0
	GtInt64
	LtInt64
	GteInt64
	LteInt64
	Bool      // combines Filters by Op
	Regex     // the expression Text matches somewhere
	Null      // there is no such field
	IPv4Range // is an address in the network Text
)

// BoolOp is how a Bool joins its filters. Without filters each of them holds.
type BoolOp uint8

// All operators. OpNot holds when one of the filters does not.
const (
	OpOr BoolOp = iota
	OpAnd
	OpNot
)

// Filter is a condition on flows as it travels to agents. It comes from a decoder or a function of this package and is never changed.
// A nil Filter holds for everything.
type Filter struct {
	Kind    FilterKind
	Key     string
	Text    string
	Num     int64
	Op      BoolOp
	Filters []*Filter

	test field.Predicate   // what Kind, Text and Num say
	ref  func(f *Flow) any // where Key is in a flow; nil where that takes more
}

// Match tells whether g passes.
func (f *Filter) Match(g field.Getter) bool {
	if f == nil || f.Kind == Everything {
		return true
	}
	if f.Kind != Bool {
		if fl, ok := g.(*Flow); ok && f.ref != nil {
			return f.matchRef(f.ref(fl))
		}
		return f.test.Match(g.Field(f.Key))
	}
	if len(f.Filters) == 0 {
		return true
	}
	for _, sub := range f.Filters {
		if sub.Match(g) == (f.Op == OpOr) {
			return f.Op != OpAnd
		}
	}
	return f.Op == OpAnd
}

// matchRef tests a field where it is: as a Value, most would have to be allocated.
func (f *Filter) matchRef(ref any) bool {
	if ref == nil {
		return f.test.Match(nil, false)
	}
	switch p := ref.(type) {
	case *string:
		if f.Kind == TermString {
			return *p == f.Text
		}
	case *int64:
		return f.matchNumber(*p)
	}
	return f.test.Match(valueOf(ref, shown))
}

// matchNumber tests a number.
func (f *Filter) matchNumber(n int64) bool {
	switch f.Kind {
	case TermInt64:
		return n == f.Num
	case GtInt64:
		return n > f.Num
	case LtInt64:
		return n < f.Num
	case GteInt64:
		return n >= f.Num
	case LteInt64:
		return n <= f.Num
	}
	return f.test.Match(n, true)
}

// And holds when all filters do; without any it is nil.
func And(filters ...*Filter) *Filter {
	var some []*Filter
	for _, f := range filters {
		if f != nil {
			some = append(some, f)
		}
	}
	switch len(some) {
	case 0:
		return nil
	case 1:
		return some[0]
	}
	return &Filter{Kind: Bool, Op: OpAnd, Filters: some}
}

// Or holds when one of the filters does; without any it never does.
func Or(filters ...*Filter) *Filter {
	switch len(filters) {
	case 0:
		return Not(nil)
	case 1:
		return filters[0]
	}
	return &Filter{Kind: Bool, Op: OpOr, Filters: filters}
}

// Not holds when f does not.
func Not(f *Filter) *Filter {
	if f == nil {
		f = &Filter{Kind: Bool}
	}
	return &Filter{Kind: Bool, Op: OpNot, Filters: []*Filter{f}}
}

// AnyText holds when key equals one of the texts.
func AnyText(key string, texts ...string) *Filter {
	filters := make([]*Filter, len(texts))
	for i, s := range texts {
		filters[i] = textFilter(key, s)
	}
	return Or(filters...)
}

func textFilter(key, s string) *Filter {
	return &Filter{Kind: TermString, Key: key, Text: s, test: field.Eq{V: s}, ref: refOf(key)}
}

func numberFilter(kind FilterKind, key string, n int64) *Filter {
	f := &Filter{Kind: kind, Key: key, Num: n, ref: refOf(key)}
	switch kind {
	case TermInt64:
		f.test = field.Eq{V: n}
	case TermBool:
		f.test = field.Eq{V: n != 0}
	case GtInt64:
		f.test = field.Gt{N: float64(n)}
	case LtInt64:
		f.test = field.Lt{N: float64(n)}
	case GteInt64:
		f.test = field.Gte{N: float64(n)}
	case LteInt64:
		f.test = field.Lte{N: float64(n)}
	}
	return f
}

func nullFilter(key string) *Filter {
	return &Filter{Kind: Null, Key: key, test: field.Missing{}, ref: refOf(key)}
}

func networkFilter(key, cidr string) (*Filter, error) {
	r, err := field.NewIPv4Range(cidr)
	return &Filter{Kind: IPv4Range, Key: key, Text: cidr, test: r, ref: refOf(key)}, err
}

// maxRegex bounds the text of an expression: compiled, it takes a multiple of that.
const maxRegex = 4096

func regexFilter(key, expr string) (*Filter, error) {
	if len(expr) > maxRegex {
		return nil, fmt.Errorf("regular expression of more than %d bytes", maxRegex)
	}
	re, err := regexp.Compile(expr)
	return &Filter{Kind: Regex, Key: key, Text: expr, test: somewhere{re}, ref: refOf(key)}, err
}

// somewhere holds when the expression matches somewhere in the text, or in one of a list.
type somewhere struct{ re *regexp.Regexp }

func (s somewhere) Match(v field.Value, ok bool) bool {
	switch v := v.(type) {
	case string:
		return ok && s.re.MatchString(v)
	case field.List:
		for _, item := range v {
			if s.Match(item, ok) {
				return true
			}
		}
	}
	return false
}

// FilterOf says what a field.Filter says in the words that agents know, with the same result on every flow – but for a bound of Inside
// or Between on a key that is a list, whose two halves different elements may then meet, and for a fraction compared with a text.
func FilterOf(f field.Filter) (*Filter, error) {
	filters := make([]*Filter, len(f.Terms))
	for i, t := range f.Terms {
		var err error
		if filters[i], err = filterOf(t); err != nil {
			return nil, fmt.Errorf("%s: %w", t.Key, err)
		}
	}
	if f.Any && len(filters) > 0 {
		return Or(filters...), nil
	}
	return And(filters...), nil
}

var errPredicate = errors.New("flows cannot be filtered this way")

func filterOf(t field.Term) (*Filter, error) {
	keys := keysOf(t.Key)
	switch p := t.Pred.(type) {
	case field.Eq:
		return keys.equal(p.V)
	case field.Ne:
		eq, err := keys.equal(p.V)
		return And(keys.exist(), Not(eq)), err
	case field.Nee:
		eq, err := keys.equal(p.V)
		return Not(eq), err
	case field.Within:
		return keys.equal(p.Vs...)
	case field.Without:
		eq, err := keys.equal(p.Vs...)
		return Not(eq), err
	case field.Exists:
		return keys.exist(), nil
	case field.Missing:
		return Not(keys.exist()), nil
	case field.Lt:
		return keys.any(func(k string) *Filter { return lessThan(k, p.N) }), nil
	case field.Lte:
		return keys.any(func(k string) *Filter { return atMost(k, p.N) }), nil
	case field.Gt:
		return keys.any(func(k string) *Filter { return above(k, p.N) }), nil
	case field.Gte:
		return keys.any(func(k string) *Filter { return atLeast(k, p.N) }), nil
	case field.Inside:
		return keys.any(func(k string) *Filter { return And(above(k, p.A), lessThan(k, p.B)) }), nil
	case field.Between:
		return keys.any(func(k string) *Filter { return And(atLeast(k, p.A), lessThan(k, p.B)) }), nil
	case field.Outside:
		return keys.any(func(k string) *Filter { return Or(lessThan(k, p.A), above(k, p.B)) }), nil
	case field.Regex:
		return keys.try(func(k string) (*Filter, error) { return regexFilter(k, anchored(p.String())) })
	case field.IPv4Range:
		return keys.try(func(k string) (*Filter, error) { return networkFilter(k, p.String()) })
	}
	return nil, errPredicate
}

// anchored makes an expression match whole texts only.
func anchored(expr string) string {
	if strings.Contains(expr, "|") {
		expr = "(?:" + expr + ")"
	}
	return "^" + expr + "$"
}

// target is a field that a key stands for, and the condition under which it does.
type target struct {
	key  string
	when *Filter
}

type targets []target

// keysOf expands the keys that agents do not know: a layer by itself is either of its ends, a protocol is the layer of that protocol.
func keysOf(key string) targets {
	head, rest, nested := strings.Cut(key, ".")
	layer := head
	var when *Filter
	switch head {
	case "Link", "Network", "Transport":
	case "ETHERNET":
		layer = "Link"
	case "IPV4", "IPV6":
		layer = "Network"
	case "TCP", "UDP", "SCTP":
		layer = "Transport"
	default:
		return targets{{key, nil}}
	}
	if layer != head {
		when = textFilter(layer+".Protocol", head)
	}
	if nested {
		return targets{{layer + "." + rest, when}}
	}
	return targets{{layer + ".A", when}, {layer + ".B", when}}
}

// any holds when the test does for any target.
func (ts targets) any(test func(key string) *Filter) *Filter {
	filters := make([]*Filter, len(ts))
	for i, t := range ts {
		filters[i] = And(t.when, test(t.key))
	}
	return Or(filters...)
}

func (ts targets) try(test func(key string) (*Filter, error)) (*Filter, error) {
	var failed error
	f := ts.any(func(key string) *Filter {
		f, err := test(key)
		failed = errors.Join(failed, err)
		return f
	})
	return f, failed
}

func (ts targets) exist() *Filter {
	return ts.any(func(key string) *Filter { return Not(nullFilter(key)) })
}

// equal holds when any target equals any of the values.
func (ts targets) equal(values ...field.Value) (*Filter, error) {
	return ts.try(func(key string) (*Filter, error) {
		filters := make([]*Filter, len(values))
		for i, v := range values {
			switch v := v.(type) {
			case string:
				filters[i] = textFilter(key, v)
			case int64:
				filters[i] = numberFilter(TermInt64, key, v)
			case float64: // with a fraction, which no number of a flow has
				filters[i] = textFilter(key, strconv.FormatFloat(v, 'g', -1, 64))
			case bool:
				filters[i] = numberFilter(TermBool, key, 0)
				if v {
					filters[i] = numberFilter(TermBool, key, 1)
				}
			default:
				return nil, errPredicate
			}
		}
		return Or(filters...), nil
	})
}

// Bounds may have fractions and exceed 64 bits, what flows count does not.

func above(key string, n float64) *Filter {
	switch n = math.Floor(n); {
	case n < math.MinInt64:
		return numberFilter(GteInt64, key, math.MinInt64)
	case n >= math.MaxInt64 || n != n:
		return Not(nil)
	}
	return numberFilter(GtInt64, key, int64(n))
}

func atLeast(key string, n float64) *Filter {
	switch n = math.Ceil(n); {
	case n < math.MinInt64:
		n = math.MinInt64
	case n >= math.MaxInt64 || n != n:
		return Not(nil)
	}
	return numberFilter(GteInt64, key, int64(n))
}

func lessThan(key string, n float64) *Filter {
	switch n = math.Ceil(n); {
	case n >= math.MaxInt64:
		return numberFilter(LteInt64, key, math.MaxInt64)
	case n <= math.MinInt64 || n != n:
		return Not(nil)
	}
	return numberFilter(LtInt64, key, int64(n))
}

func atMost(key string, n float64) *Filter {
	switch n = math.Floor(n); {
	case n >= math.MaxInt64:
		return numberFilter(LteInt64, key, math.MaxInt64)
	case n < math.MinInt64 || n != n:
		return Not(nil)
	}
	return numberFilter(LteInt64, key, int64(n))
}
