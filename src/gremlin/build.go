package gremlin

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
)

// ErrQuote means that a text cannot be written as a string: the language has no escapes, and both quotes end one.
var ErrQuote = errors.New("text holds a quote")

// New builds a query and checks it as Parse does; ints are accepted for int64.
func New(steps ...Step) (*Query, error) {
	if len(steps) > MaxSteps {
		return nil, fmt.Errorf("build query: more than %d steps", MaxSteps)
	}
	q := &Query{Steps: make([]Step, len(steps))}
	for i, s := range steps {
		if s.Kind == 0 || s.Kind >= kinds {
			return nil, fmt.Errorf("build query: no such step: %d", s.Kind)
		}
		args, err := build(s.Kind.String(), check(s.Kind), s.Args, true)
		if err != nil {
			return nil, fmt.Errorf("build query: %w", err)
		}
		q.Steps[i] = Step{Kind: s.Kind, Args: args}
	}
	return q, nil
}

func check(k Kind) func(string, []Arg) *fault { return steps[k].check }

// Call is shorthand for a Step to give to New.
func Call(k Kind, args ...Arg) Step { return Step{Kind: k, Args: args} }

// Is is shorthand for a Predicate.
func Is(op Op, args ...Arg) *Predicate { return &Predicate{op, args} }

func build(name string, check func(string, []Arg) *fault, in []Arg, nested bool) ([]Arg, error) {
	var args []Arg
	for _, a := range in {
		switch v := a.(type) {
		case int:
			a = int64(v)
		case int64, bool, Constant:
		case float64:
			if math.Signbit(v) || math.IsInf(v, 0) || math.IsNaN(v) {
				return nil, fmt.Errorf("%s: number %v cannot be written", name, v)
			}
		case string:
			if strings.ContainsAny(v, `'"`) {
				return nil, fmt.Errorf("%s: %w", name, ErrQuote)
			}
		case *Predicate:
			if !nested || v == nil || v.Op == 0 || v.Op >= ops {
				return nil, fmt.Errorf("%s: no such predicate", name)
			}
			sub, err := build(v.Op.String(), predicates[v.Op].check, v.Args, false)
			if err != nil {
				return nil, err
			}
			a = &Predicate{v.Op, sub}
		case Metadata:
			if !nested {
				return nil, fmt.Errorf("%s: Metadata is not allowed here", name)
			}
			sub, err := build("Metadata", metadata, v, false)
			if err != nil {
				return nil, err
			}
			a = Metadata(sub)
		default:
			return nil, fmt.Errorf("%s: parameter of type %T", name, a)
		}
		if n, ok := a.(int64); ok && n < 0 {
			return nil, fmt.Errorf("%s: number %d cannot be written", name, n)
		}
		args = append(args, a)
	}
	if f := check(name, args); f != nil {
		return nil, fmt.Errorf("%s: %s", name, f.text)
	}
	return args, nil
}

// Quote writes s as a string of the language, or fails with ErrQuote.
func Quote(s string) (string, error) {
	if strings.ContainsAny(s, `'"`) {
		return "", ErrQuote
	}
	return "'" + s + "'", nil
}

// Text is the parameter that matches exactly s in a filter: s itself, or where s holds quotes a regular expression.
func Text(s string) Arg {
	if !strings.ContainsAny(s, `'"`) {
		return s
	}
	// A dollar at the end would pass for an anchor.
	return &Predicate{Regex, []Arg{strings.NewReplacer("'", `\x27`, `"`, `\x22`, `\$`, `\x24`).Replace(regexp.QuoteMeta(s))}}
}
