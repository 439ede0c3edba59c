package gremlin

import (
	"fmt"
	"strconv"
	"strings"
)

// Bounds of a query: whatever is sent, parsing stays linear and shallow, and so does what comes of it.
const (
	MaxLength = 64 << 10 // bytes of text, and instructions of its regular expressions together
	MaxSteps  = 256
)

// SyntaxError says where a text stops being a query. Text is worded as public clients know it.
type SyntaxError struct {
	Offset int    // in bytes
	Found  string // the offending token, empty at the end of the text
	Want   string // what was expected instead
	Text   string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s (at offset %d, want %s)", e.Text, e.Offset, e.Want)
}

// Parse reads a query. Every error is a *SyntaxError.
func Parse(s string) (*Query, error) {
	if len(s) > MaxLength {
		return nil, &SyntaxError{MaxLength, "", "a shorter query", fmt.Sprintf("query exceeds %d bytes", MaxLength)}
	}
	p := parser{lex: lexer{text: s}}
	p.next()
	q, err := p.query()
	if err != nil {
		return nil, err // assigned to the interface here only, so that a nil *SyntaxError never escapes
	}
	return q, nil
}

type parser struct {
	lex      lexer
	tok      token
	automata int // instructions of the regular expressions so far
}

func (p *parser) next() { p.tok = p.lex.next() }

func (p *parser) fail(want, format string, a ...any) *SyntaxError {
	return &SyntaxError{p.tok.offset, short(p.tok.text), want, fmt.Sprintf(format, a...)}
}

func (p *parser) query() (*Query, *SyntaxError) {
	if p.tok.kind != ident || !strings.EqualFold(p.tok.text, "G") {
		return nil, p.fail("G", "found %q, expected `G`", short(p.tok.text))
	}
	p.next()
	q := &Query{}
	for p.tok.kind != end {
		if p.tok.kind != dot {
			return nil, p.fail(". or the end", "found %q, expected `.`", short(p.tok.text))
		}
		if len(q.Steps) == MaxSteps {
			return nil, p.fail("a shorter query", "query exceeds %d steps", MaxSteps)
		}
		p.next()
		s, err := p.step()
		if err != nil {
			return nil, err
		}
		q.Steps = append(q.Steps, s)
	}
	return q, nil
}

func (p *parser) step() (Step, *SyntaxError) {
	kind, ok := byName[strings.ToLower(p.tok.text)]
	if p.tok.kind != ident || !ok {
		return Step{}, p.fail("the name of a step", "Expected step function, got: %s", short(p.tok.text))
	}
	s := Step{Kind: kind, Offset: p.tok.offset}
	p.next()
	if kind == G {
		return s, nil
	}
	var err *SyntaxError
	s.Args, err = p.call(s.Offset, steps[kind].name, steps[kind].check, true)
	return s, err
}

// call reads the parameters of the step, predicate or Metadata name, whose own token starts at offset. Only steps take
// nested calls, which bounds the depth.
func (p *parser) call(offset int, name string, check func(string, []Arg) *fault, nested bool) ([]Arg, *SyntaxError) {
	if p.tok.kind != left {
		return nil, p.fail("(", "Expected left parenthesis, got: %s", short(p.tok.text))
	}
	p.next()
	var args []Arg
	var tokens []token // of the parameters, for messages
	for p.tok.kind != right {
		switch p.tok.kind {
		case comma:
			p.next()
			continue
		case end:
			return nil, p.fail(")", "Expected right parenthesis")
		}
		tokens = append(tokens, p.tok)
		a, err := p.arg(nested)
		if err != nil {
			return nil, err
		}
		args = append(args, a)
	}
	p.next()
	if f := check(name, args); f != nil {
		at := token{offset: offset, text: name}
		if f.arg >= 0 {
			at = tokens[f.arg]
		}
		return nil, &SyntaxError{at.offset, short(at.text), f.want, f.text}
	}
	return args, nil
}

func (p *parser) arg(nested bool) (Arg, *SyntaxError) {
	t := p.tok
	switch t.kind {
	case text:
		p.next()
		return t.text, nil
	case number:
		var a Arg
		var err error
		if strings.Contains(t.text, ".") {
			a, err = strconv.ParseFloat(t.text, 64)
		} else {
			a, err = strconv.ParseInt(t.text, 10, 64)
		}
		if err != nil {
			return nil, p.fail("a number of 64 bits", "Invalid number: %s", short(t.text))
		}
		p.next()
		return a, nil
	case ident:
		word := strings.ToLower(t.text)
		if a, ok := words[word]; ok {
			p.next()
			return a, nil
		}
		if !nested {
			break
		}
		if op, ok := opByName[word]; ok {
			p.next()
			args, err := p.call(t.offset, predicates[op].name, predicates[op].check, false)
			if err != nil {
				return nil, err
			}
			if op == Regex {
				if p.automata += automaton(args[0].(string)); p.automata > MaxLength {
					return nil, &SyntaxError{t.offset, short(t.text), "fewer repetitions", "regular expressions are too large"}
				}
			}
			return &Predicate{op, args}, nil
		}
		if word == "metadata" {
			p.next()
			args, err := p.call(t.offset, "Metadata", metadata, false)
			if err != nil {
				return nil, err
			}
			return Metadata(args), nil
		}
	}
	return nil, p.fail("a parameter or )", "Unexpected token while parsing parameters, got: %s", short(t.text))
}
