// Package gremlin is the query language: tokens, grammar, syntax tree, canonical text.
//
// It knows every step of the language, also those that only an analyzer can run, and checks what can be known
// without data: arity, parameter types, regular expressions, CIDRs, times. It never looks at a graph; package
// query runs what is parsed here. A Query is immutable once parsed and may be shared.
package gremlin

import (
	"strconv"
	"strings"
)

// Arg is a parameter: string, int64, float64, bool, Constant, *Predicate or Metadata.
type Arg = any

// Query is a whole traversal. The leading G is not a step, a later bare G is.
type Query struct {
	Steps []Step
}

// Step is one call of a traversal.
type Step struct {
	Kind   Kind
	Args   []Arg
	Offset int // byte offset of the name in the text, 0 when built by New
}

// Predicate is a test given as parameter, such as GT(1500).
type Predicate struct {
	Op   Op
	Args []Arg // string, int64, float64 or bool only
}

// Metadata is the parameter Metadata(key, value, …): alternately a string and a plain value.
type Metadata []Arg

// Constant is a bare word used as parameter.
type Constant uint8

// The constants of the language.
const (
	Asc Constant = iota + 1
	Desc
	Now
	Forever
)

func (c Constant) String() string {
	switch c {
	case Asc:
		return "ASC"
	case Desc:
		return "DESC"
	case Now:
		return "NOW"
	case Forever:
		return "FOREVER"
	}
	return "Constant(" + strconv.Itoa(int(c)) + ")"
}

// String gives the canonical text; Parse of it gives an equal Query (apart from offsets).
func (q *Query) String() string {
	b := []byte("G")
	for _, s := range q.Steps {
		b = append(b, '.')
		b = s.append(b)
	}
	return string(b)
}

// String gives the canonical text of one step, such as Has('Name','eth0').
func (s Step) String() string { return string(s.append(nil)) }

func (s Step) append(b []byte) []byte {
	b = append(b, s.Kind.String()...)
	if s.Kind == G {
		return b
	}
	return appendArgs(b, s.Args)
}

func (p *Predicate) String() string {
	return string(appendArgs([]byte(p.Op.String()), p.Args))
}

func (m Metadata) String() string { return string(appendArgs([]byte("Metadata"), m)) }

func appendArgs(b []byte, args []Arg) []byte {
	b = append(b, '(')
	for i, a := range args {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendArg(b, a)
	}
	return append(b, ')')
}

func appendArg(b []byte, a Arg) []byte {
	switch a := a.(type) {
	case string:
		b = append(b, '\'')
		b = append(b, a...)
		return append(b, '\'')
	case int64:
		return strconv.AppendInt(b, a, 10)
	case float64:
		n := len(b)
		// The language has no exponent, and a number without a dot is an integer.
		if b = strconv.AppendFloat(b, a, 'f', -1, 64); !strings.Contains(string(b[n:]), ".") {
			b = append(b, '.', '0')
		}
		return b
	case bool:
		return strconv.AppendBool(b, a)
	case Constant:
		return append(b, a.String()...)
	case *Predicate:
		return append(b, a.String()...)
	case Metadata:
		return append(b, a.String()...)
	}
	return append(b, '?') // unreachable: Parse and New admit nothing else
}
