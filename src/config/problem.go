package config

import (
	"fmt"
	"strings"
)

// Severity tells what a problem prevents.
type Severity int

// The severities of problems.
const (
	Notice  Severity = iota // a known key that this version does not read, or an old name
	Unknown                 // a key that nobody knows
	Error                   // nothing can start with this
	Refusal                 // services refuse to start with this; other commands do not care
)

// Problem is one thing that is wrong with a configuration. Source is
// "file:line:column", or names the environment variable or flag.
type Problem struct {
	Severity Severity
	Source   string
	Key      string
	Message  string
}

// String returns the problem as one line.
func (p Problem) String() string {
	if p.Source == "" {
		return p.Message
	}
	return p.Source + ": " + p.Message
}

// Errors are the problems that make a configuration unusable, in order.
type Errors []Problem

// Error returns one line for each problem.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

func (l *loader) report(severity Severity, source, key, format string, args ...any) {
	l.problems = append(l.problems, Problem{Severity: severity, Source: source, Key: key, Message: fmt.Sprintf(format, args...)})
}

// split parts problems into errors and the rest.
func split(problems []Problem, isError func(Severity) bool) (rest []Problem, errs Errors) {
	for _, p := range problems {
		if isError(p.Severity) {
			errs = append(errs, p)
		} else {
			rest = append(rest, p)
		}
	}
	return rest, errs
}
