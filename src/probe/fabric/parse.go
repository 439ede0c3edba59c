package fabric

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"skydive/src/field"
)

// rule is one "A -> B".
type rule struct {
	from, to endpoint
	owns     bool // "->": the left one owns the right one, besides the link
	metadata field.Object
}

// endpoint is a node of the fabric or, when child is set, each node of that name that a node of some metadata owns.
type endpoint struct {
	name     string // of a node of the fabric, in rules
	metadata []pair // that it is given, or that the owner must have
	child    string
	below    []pair // metadata that the child must have
	column   int
}

type pair struct{ key, value string }

// SyntaxError says where a rule cannot be understood.
type SyntaxError struct {
	Rule, Column int // from 1; the column counts characters of the rule
	Text         string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("rule %d, column %d: %s", e.Rule, e.Column, e.Text)
}

// Check tells what is wrong with the rules of a configuration. Every error is a *SyntaxError.
func Check(rules []string) error {
	_, err := compile(rules)
	return err
}

// parse reads rules, one in each text. The environment separates them by blanks, and then all that is between blanks comes as a text.
func parse(texts []string) (rules []rule, err error) {
	if !slices.ContainsFunc(texts, func(s string) bool { return strings.ContainsFunc(s, unicode.IsSpace) }) {
		return parseAll(strings.Join(texts, " "))
	}
	for i, text := range texts {
		p := &parser{text: text, rule: i + 1}
		r, err := p.parse()
		if p.blanks(); err == nil && p.at < len(text) {
			err = p.fail(p.at, "want the end of the rule, found %s", p.found())
		}
		if err != nil {
			return nil, err // assigned to the interface here only, so that a nil *SyntaxError never escapes
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func parseAll(text string) (rules []rule, _ error) {
	for n := 1; ; n++ {
		text = strings.TrimLeftFunc(text, unicode.IsSpace)
		if text == "" {
			return rules, nil
		}
		p := &parser{text: text, rule: n}
		r, err := p.parse()
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
		text = text[p.at:]
	}
}

type parser struct {
	text     string
	rule, at int
}

func (p *parser) fail(at int, format string, a ...any) *SyntaxError {
	return &SyntaxError{p.rule, p.column(at), fmt.Sprintf(format, a...)}
}

func (p *parser) column(at int) int { return utf8.RuneCountInString(p.text[:at]) + 1 }

// found shows what is at hand.
func (p *parser) found() string {
	rest := []rune(p.text[p.at:])
	if len(rest) == 0 {
		return "the end"
	}
	if len(rest) > 20 {
		rest = append(rest[:20:20], '…')
	}
	return strconv.Quote(string(rest))
}

func (p *parser) blanks() {
	p.at = len(p.text) - len(strings.TrimLeftFunc(p.text[p.at:], unicode.IsSpace))
}

func (p *parser) take(token string) bool {
	if !strings.HasPrefix(p.text[p.at:], token) {
		return false
	}
	p.at += len(token)
	return true
}

func (p *parser) parse() (r rule, err *SyntaxError) {
	if r.from, err = p.endpoint(); err != nil {
		return r, err
	}
	p.blanks()
	switch {
	case p.take("-->"):
	case p.take("->"):
		r.owns = true
	default:
		return r, p.fail(p.at, "Fabric link definition should have two endpoints: want -> or --> after the first, found %s", p.found())
	}
	p.blanks()
	at := p.at
	pairs, err := p.pairs()
	if err != nil {
		return r, err
	}
	if r.metadata, err = p.object(at, pairs); err != nil {
		return r, err
	}
	p.blanks()
	if r.to, err = p.endpoint(); err != nil {
		return r, err
	}
	if r.from.child != "" && r.to.child != "" {
		return r, &SyntaxError{p.rule, r.to.column, "one end of a link must be a node of the fabric, without *"}
	}
	return r, nil
}

func (p *parser) endpoint() (e endpoint, err *SyntaxError) {
	p.blanks()
	e.column = p.column(p.at)
	discovered := p.take("*")
	if !discovered {
		if e.name = p.name(); e.name == "" {
			return e, p.fail(p.at, "Fabric link definition should have two endpoints: want a node, found %s", p.found())
		}
		e.metadata, err = p.pairs()
		return e, err
	}
	if e.metadata, err = p.pairs(); err != nil {
		return e, err
	}
	if !p.take("/") {
		return e, p.fail(p.at, "want /, and the name of a node below, found %s", p.found())
	}
	if e.child = p.name(); e.child == "" {
		return e, p.fail(p.at, "want the name of a node below, found %s", p.found())
	}
	e.below, err = p.pairs()
	return e, err
}

// name ends with a blank, a bracket or an arrow.
func (p *parser) name() string {
	start := p.at
	for p.at < len(p.text) {
		rest := p.text[p.at:]
		r, size := utf8.DecodeRuneInString(rest)
		if unicode.IsSpace(r) || r == '[' || r == ']' || strings.HasPrefix(rest, "->") || strings.HasPrefix(rest, "-->") {
			break
		}
		p.at += size
	}
	return p.text[start:p.at]
}

// pairs reads "[k=v, …]", if there is one.
func (p *parser) pairs() (list []pair, err *SyntaxError) {
	open := p.at
	if !p.take("[") {
		return nil, nil
	}
	length := strings.IndexByte(p.text[p.at:], ']')
	if length < 0 {
		return nil, p.fail(open, "no ] closes this [")
	}
	inside := p.text[p.at : p.at+length]
	at := p.at
	p.at += length + 1
	if strings.TrimSpace(inside) == "" {
		return nil, nil
	}
	for text := range strings.SplitSeq(inside, ",") {
		key, value, ok := strings.Cut(text, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || key == "" {
			start := at + len(text) - len(strings.TrimLeftFunc(text, unicode.IsSpace))
			return nil, p.fail(start, "want key=value, found %s", strconv.Quote(strings.TrimSpace(text)))
		}
		list = append(list, pair{key, value})
		at += len(text) + 1
	}
	return list, nil
}

// object makes metadata of pairs; dotted keys make objects.
func (p *parser) object(at int, pairs []pair) (m field.Object, _ *SyntaxError) {
	for _, kv := range pairs {
		var err error
		if m, err = m.Set(kv.key, kv.value); err != nil {
			return nil, p.fail(at, "%v", err)
		}
	}
	return m, nil
}
