package gremlin

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp/syntax"
	"strings"
)

// MaxRegex bounds a regular expression in bytes.
const MaxRegex = 4096

// automaton estimates how many instructions an expression that was accepted compiles to. Counted repetition can make it a
// thousand times its text.
func automaton(expr string) int {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return 0
	}
	return instructions(re)
}

func instructions(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		n += instructions(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return n
}

// fault tells what is wrong with a list of parameters.
type fault struct {
	arg  int // index of the offending parameter, -1 when it is their number
	text string
	want string
}

func arity(want, format string, a ...any) *fault {
	return &fault{-1, fmt.Sprintf(format, a...), want}
}

func wrong(arg int, want, format string, a ...any) *fault {
	return &fault{arg, fmt.Sprintf(format, a...), want}
}

func noArgs(name string, args []Arg) *fault {
	if len(args) > 0 {
		return arity("no parameter", "%s accepts no parameter : %s", name, list(args))
	}
	return nil
}

func element(name string, args []Arg) *fault {
	if len(args) > 1 {
		return arity("at most one string", "%s accepts at most one parameter : %s", name, list(args))
	}
	if len(args) == 1 && !isString(args[0]) {
		return wrong(0, "a string", "%s parameter must be a string : %s", name, list(args))
	}
	return nil
}

// filter checks a list of key, value pairs, or a single key, of at least min parameters.
func filter(min int) func(string, []Arg) *fault {
	return func(_ string, args []Arg) *fault {
		switch {
		case len(args) < min:
			return arity("a key, or pairs of key and value", "At least one parameter must be provided")
		case len(args) == 1 && !isString(args[0]):
			return wrong(0, "a string", "Key must be a string")
		case len(args) == 1:
			return nil
		}
		return pairs(args)
	}
}

func pairs(args []Arg) *fault {
	if len(args)%2 != 0 {
		return arity("pairs of key and value", "params should be a list of key,value")
	}
	for i := 0; i < len(args); i += 2 {
		if !isString(args[i]) {
			return wrong(i, "a string", "keys should be of string type")
		}
		if _, ok := args[i+1].(*Predicate); !ok && !isScalar(args[i+1]) {
			return wrong(i+1, "a value or a predicate", "value of %s should be a plain value or a predicate", short(args[i].(string)))
		}
	}
	return nil
}

func flows(_ string, args []Arg) *fault {
	if len(args) == 1 {
		return arity("pairs of key and value", "At least two parameters must be provided")
	}
	return pairs(args)
}

func oneKey(name string, args []Arg) *fault {
	if len(args) != 1 {
		return arity("one string", "%s requires 1 parameter : %s", name, list(args))
	}
	return optionalKey(name, args)
}

func optionalKey(name string, args []Arg) *fault {
	if len(args) > 1 {
		return arity("at most one string", "%s accepts one parameter : %s", name, list(args))
	}
	return keys(0)(name, args)
}

func keys(min int) func(string, []Arg) *fault {
	return func(name string, args []Arg) *fault {
		if len(args) < min {
			return arity("strings", "%s requires at least one key : %s", name, list(args))
		}
		for i, a := range args {
			if !isString(a) {
				return wrong(i, "a string", "%s parameters have to be string keys : %s", name, list(args))
			}
		}
		return nil
	}
}

// optional accepts one parameter of any kind, which Group and MoreThan ignore for compatibility.
func optional(name string, args []Arg) *fault {
	if len(args) > 1 {
		return arity("at most one parameter", "%s accepts one parameter : %s", name, list(args))
	}
	return nil
}

func ints(n int) func(string, []Arg) *fault {
	return func(name string, args []Arg) *fault {
		if len(args) != n {
			return arity("integers", "%s requires %d parameter%s : %s", name, n, plural(n), list(args))
		}
		for i, a := range args {
			if _, ok := a.(int64); !ok {
				return wrong(i, "an integer", "%s parameters have to be integers : %s", name, list(args))
			}
		}
		return nil
	}
}

func sorting(_ string, args []Arg) *fault {
	switch len(args) {
	case 0:
		return nil
	case 1:
		if !isString(args[0]) {
			return wrong(0, "a string", "Sort parameter has to be a string key : %s", list(args))
		}
		return nil
	case 2:
		if c, ok := args[0].(Constant); !ok || c != Asc && c != Desc {
			return wrong(0, "ASC or DESC", "Use ASC or DESC predicate : %s", list(args[:1]))
		}
		if !isString(args[1]) {
			return wrong(1, "a string", "Second parameter of Sort has to be a string key : %s", list(args[1:]))
		}
		return nil
	}
	return arity("at most ASC or DESC and a key", "Sort accepts 1 predicate and 1 string parameter : %s", list(args))
}

func shortestPath(_ string, args []Arg) *fault {
	if len(args) < 1 || len(args) > 2 {
		return arity("Metadata(…), then optionally Metadata(…)", "ShortestPathTo predicate accepts only 1 or 2 parameters : %s", list(args))
	}
	for i, a := range args {
		if _, ok := a.(Metadata); !ok {
			return wrong(i, "Metadata(…)", "ShortestPathTo parameters have to be Metadata(key, value, …)")
		}
	}
	return nil
}

func metadata(_ string, args []Arg) *fault {
	if len(args)%2 != 0 {
		return arity("pairs of key and value", "slice must be defined by pair k,v: %s", list(args))
	}
	for i, a := range args {
		if i%2 == 0 && !isString(a) {
			return wrong(i, "a string", "keys should be of string type")
		}
		if !isScalar(a) {
			return wrong(i, "a plain value", "Metadata values have to be plain values")
		}
	}
	return nil
}

func context(_ string, args []Arg) *fault {
	switch {
	case len(args) == 0:
		return arity("a time", "At least one parameter must be provided to 'Context'")
	case len(args) > 2:
		return arity("a time and a duration", "At most two parameters must be provided to 'Context'")
	}
	if _, err := parseTime(args[0], anyTime); err != nil {
		return wrong(0, "seconds, RFC1123, a Go duration or NOW", "%v", err)
	}
	if len(args) == 2 && args[1] != Forever {
		if _, err := parseDuration(args[1]); err != nil {
			return wrong(1, "seconds, a Go duration or FOREVER", "%v", err)
		}
	}
	return nil
}

func aggregates(_ string, args []Arg) *fault {
	if len(args) > 1 {
		return arity("at most a number of seconds", "Aggregates accepts one parameter : %s", list(args))
	}
	if len(args) == 1 {
		// Above this the milliseconds would overflow.
		if n, ok := args[0].(int64); !ok || n <= 0 || n > 1<<40 {
			return wrong(0, "a number of seconds", "Aggregates parameter has to be a positive number")
		}
	}
	return nil
}

// relatives are pairs, then optionally a depth.
func relatives(name string, args []Arg) *fault {
	if n := len(args); n%2 != 0 {
		if _, ok := args[n-1].(int64); !ok {
			return wrong(n-1, "an integer", "%s last argument must be the maximum depth specified as an integer", name)
		}
		args = args[:n-1]
	}
	return pairs(args)
}

func nextHop(_ string, args []Arg) *fault {
	if len(args) != 1 {
		return arity("one IP address", "NextHop accepts one parameter : %s", list(args))
	}
	s, ok := args[0].(string)
	if !ok {
		return wrong(0, "a string", "NextHop parameter have to be a string")
	}
	if _, err := netip.ParseAddr(s); err != nil {
		return wrong(0, "an IP address", "NextHop parameter have to be a valid IP address")
	}
	return nil
}

func workflow(_ string, args []Arg) *fault {
	if len(args) == 0 || !isString(args[0]) {
		return arity("the name of a workflow, then its parameters", "Workflow requires the name of a workflow : %s", list(args))
	}
	return scalars(-1)("Workflow", args)
}

// scalars checks for exactly n plain values; n < 0 is any number of them.
func scalars(n int) func(string, []Arg) *fault {
	return func(name string, args []Arg) *fault {
		if n >= 0 && len(args) != n {
			return arity("one value", "One parameter expected with %s: %s", name, list(args))
		}
		for i, a := range args {
			if !isScalar(a) {
				return wrong(i, "a plain value", "%s values should be plain values", name)
			}
		}
		return nil
	}
}

func numbers(n int) func(string, []Arg) *fault {
	return func(name string, args []Arg) *fault {
		if len(args) != n {
			return arity("numbers", "%s parameter%s expected with %s: %s", []string{1: "One", 2: "Two"}[n], plural(n), name, list(args))
		}
		for i, a := range args {
			switch a.(type) {
			case int64, float64:
			default:
				return wrong(i, "a number", "%s values should be of int64 type", name)
			}
		}
		return nil
	}
}

func regex(_ string, args []Arg) *fault {
	if len(args) != 1 {
		return arity("one string", "One parameter expected with REGEX: %s", list(args))
	}
	s, ok := args[0].(string)
	switch {
	case !ok:
		return wrong(0, "a string", "REGEX predicate expects a string as parameter, got: %s", list(args))
	case len(s) > MaxRegex:
		return wrong(0, "a shorter regular expression", "REGEX parameter exceeds %d bytes", MaxRegex)
	case strings.HasPrefix(s, "^") || strings.HasSuffix(s, "$"):
		return wrong(0, "no anchor", "Regex are anchored by default, ^ and $ don't have to be provided")
	}
	if _, err := syntax.Parse(s, syntax.Perl); err != nil {
		return wrong(0, "a RE2 expression", "%v", err)
	}
	return nil
}

func ipv4Range(_ string, args []Arg) *fault {
	if len(args) != 1 {
		return arity("one CIDR", "One parameter expected with IPV4RANGE: %s", list(args))
	}
	s, ok := args[0].(string)
	if !ok {
		return wrong(0, "a string", "Ipv4Range value has to be a string")
	}
	if p, err := netip.ParsePrefix(s); err != nil || !p.Addr().Is4() {
		return wrong(0, "an IPv4 CIDR", "invalid CIDR address: %s", short(s))
	}
	return nil
}

func isString(a Arg) bool { _, ok := a.(string); return ok }

func isScalar(a Arg) bool {
	switch a.(type) {
	case string, int64, float64, bool:
		return true
	}
	return false
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// list shows parameters in messages, shortened.
func list(args []Arg) string {
	const most = 8
	if len(args) > most {
		return short(fmt.Sprint(args[:most])) + "…"
	}
	return short(fmt.Sprint(args))
}

// short keeps what a caller sent from filling logs and answers.
func short(s string) string {
	const most = 80
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

var errTime = errors.New("Time must be in RFC1123 or in Go Duration format")
