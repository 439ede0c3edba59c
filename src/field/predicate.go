package field

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strings"
)

// Predicate tests a value. A test against a list holds when it holds for any element.
type Predicate interface {
	Match(v Value, present bool) bool
}

// Getter is anything with fields: a node, an edge, a flow, an Object.
type Getter interface {
	Field(path string) (Value, bool)
}

// Field makes an Object a Getter of its dotted paths.
func (o Object) Field(path string) (Value, bool) { return o.Lookup(path) }

// Term is one test of one field.
type Term struct {
	Key  string
	Pred Predicate
}

// Filter is a list of terms, all of which (or, with Any, one of which) must hold. Without terms it matches everything.
type Filter struct {
	Any   bool
	Terms []Term
}

// Match tells whether g passes the filter.
func (f Filter) Match(g Getter) bool {
	if len(f.Terms) == 0 {
		return true
	}
	for _, t := range f.Terms {
		if t.Pred.Match(g.Field(t.Key)) == f.Any {
			return f.Any
		}
	}
	return !f.Any
}

type (
	// Eq holds when the field equals V.
	Eq struct{ V Value }
	// Ne holds when the field exists and differs from V.
	Ne struct{ V Value }
	// Nee holds when the field differs from V or is missing.
	Nee struct{ V Value }
	// Lt holds when the field is a number below N.
	Lt struct{ N float64 }
	// Gt holds when the field is a number above N.
	Gt struct{ N float64 }
	// Lte holds when the field is a number of at most N.
	Lte struct{ N float64 }
	// Gte holds when the field is a number of at least N.
	Gte struct{ N float64 }
	// Inside holds for A < field < B.
	Inside struct{ A, B float64 }
	// Between holds for A ≤ field < B.
	Between struct{ A, B float64 }
	// Outside holds for field < A or field > B.
	Outside struct{ A, B float64 }
	// Within holds when the field equals one of Vs.
	Within struct{ Vs []Value }
	// Without holds when the field equals none of Vs; a missing field does.
	Without struct{ Vs []Value }
	// Exists holds when the field is there.
	Exists struct{}
	// Missing holds when the field is not there.
	Missing struct{}
	// Regex holds when the whole field matches the expression; build it with NewRegex.
	Regex struct {
		re     *regexp.Regexp
		prefix string
		source string
	}
	// IPv4Range holds when the field is an IPv4 address (with or without a prefix length) inside the network; build it with
	// NewIPv4Range.
	IPv4Range struct{ net netip.Prefix }
)

// equal compares a stored value with a literal; a list equals it when any element does. A number also equals text that spells
// it, but text never equals a number.
func equal(v, want Value) bool {
	switch v := v.(type) {
	case string:
		switch w := want.(type) {
		case string:
			return v == w
		case int64, float64:
			n, ok := spelled(v)
			return ok && equal(n, w)
		}
		return false
	case List:
		for _, item := range v {
			if equal(item, want) {
				return true
			}
		}
		return false
	case int64:
		switch w := want.(type) {
		case int64:
			return v == w
		case float64:
			return float64(v) == w
		}
		return false
	case float64:
		switch w := want.(type) {
		case int64:
			return v == float64(w)
		case float64:
			return v == w
		}
		return false
	case Object:
		return Equal(v, want)
	}
	if _, ok := want.(Object); ok {
		return false
	}
	if _, ok := want.(List); ok {
		return false
	}
	return v == want
}

func (p Eq) Match(v Value, ok bool) bool  { return ok && equal(v, p.V) }
func (p Ne) Match(v Value, ok bool) bool  { return ok && !equal(v, p.V) }
func (p Nee) Match(v Value, ok bool) bool { return !ok || !equal(v, p.V) }

func (p Within) Match(v Value, ok bool) bool {
	for _, want := range p.Vs {
		if ok && equal(v, want) {
			return true
		}
	}
	return false
}

func (p Without) Match(v Value, ok bool) bool { return !Within{p.Vs}.Match(v, ok) }

func (Exists) Match(_ Value, ok bool) bool  { return ok }
func (Missing) Match(_ Value, ok bool) bool { return !ok }

// spelled returns the number that a text spells.
func spelled(s string) (Value, bool) {
	// Most texts are no number, which a failed attempt to parse is a slow way to find out.
	if s == "" || strings.IndexByte("+-.0123456789", s[0]) < 0 {
		return nil, false
	}
	n, err := parseNumber(s)
	f, _ := n.(float64)
	return n, err == nil && !math.IsInf(f, 0)
}

// anyNumber tells whether test holds for v, or for any element of it. Text that spells a number counts as one.
func anyNumber(v Value, ok bool, test func(float64) bool) bool {
	if !ok {
		return false
	}
	switch v := v.(type) {
	case int64:
		return test(float64(v))
	case float64:
		return test(v)
	case string:
		n, ok := spelled(v)
		return ok && anyNumber(n, true, test)
	case List:
		for _, item := range v {
			if anyNumber(item, true, test) {
				return true
			}
		}
	}
	return false
}

func (p Lt) Match(v Value, ok bool) bool {
	return anyNumber(v, ok, func(x float64) bool { return x < p.N })
}
func (p Gt) Match(v Value, ok bool) bool {
	return anyNumber(v, ok, func(x float64) bool { return x > p.N })
}
func (p Lte) Match(v Value, ok bool) bool {
	return anyNumber(v, ok, func(x float64) bool { return x <= p.N })
}
func (p Gte) Match(v Value, ok bool) bool {
	return anyNumber(v, ok, func(x float64) bool { return x >= p.N })
}
func (p Inside) Match(v Value, ok bool) bool {
	return anyNumber(v, ok, func(x float64) bool { return p.A < x && x < p.B })
}
func (p Between) Match(v Value, ok bool) bool {
	return anyNumber(v, ok, func(x float64) bool { return p.A <= x && x < p.B })
}
func (p Outside) Match(v Value, ok bool) bool {
	return anyNumber(v, ok, func(x float64) bool { return x < p.A || x > p.B })
}

// anyText tells whether test holds for v, or for any element of it.
func anyText(v Value, ok bool, test func(string) bool) bool {
	if !ok {
		return false
	}
	switch v := v.(type) {
	case string:
		return test(v)
	case List:
		for _, item := range v {
			if anyText(item, true, test) {
				return true
			}
		}
	}
	return false
}

// NewRegex compiles an RE2 expression that must match the whole text. Anchors at the ends are refused, since they are implied.
func NewRegex(expr string) (Regex, error) {
	if strings.HasPrefix(expr, "^") || strings.HasSuffix(expr, "$") {
		return Regex{}, errors.New("Regex are anchored by default, ^ and $ don't have to be provided")
	}
	re, err := regexp.Compile("^(?:" + expr + ")$")
	if err != nil {
		return Regex{}, fmt.Errorf("regular expression %q: %w", expr, err)
	}
	// The literal start of the expression refuses most texts without running the automaton.
	prefix := ""
	if bare, err := regexp.Compile(expr); err == nil {
		prefix, _ = bare.LiteralPrefix()
	}
	return Regex{re: re, prefix: prefix, source: expr}, nil
}

func (p Regex) Match(v Value, ok bool) bool { return anyText(v, ok, p.MatchText) }

// MatchText tells whether the whole of s matches.
func (p Regex) MatchText(s string) bool {
	return strings.HasPrefix(s, p.prefix) && p.re.MatchString(s)
}

// String returns the expression as it was given.
func (p Regex) String() string { return p.source }

// NewIPv4Range parses a network such as 10.0.0.0/8.
func NewIPv4Range(cidr string) (IPv4Range, error) {
	net, err := netip.ParsePrefix(cidr)
	if err != nil || !net.Addr().Is4() {
		return IPv4Range{}, fmt.Errorf("%q is not an IPv4 network such as 10.0.0.0/8", cidr)
	}
	return IPv4Range{net.Masked()}, nil
}

func (p IPv4Range) Match(v Value, ok bool) bool {
	return anyText(v, ok, func(s string) bool {
		addr, _, _ := strings.Cut(s, "/")
		ip, err := netip.ParseAddr(addr)
		return err == nil && p.net.Contains(ip)
	})
}

// String returns the network.
func (p IPv4Range) String() string { return p.net.String() }
