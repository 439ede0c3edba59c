package gremlin

import "unicode/utf8"

type tokenKind uint8

const (
	end tokenKind = iota
	illegal
	ident
	text // a string, without its quotes
	number
	dot
	comma
	left
	right
)

type token struct {
	kind   tokenKind
	offset int
	text   string
}

type lexer struct {
	text string
	pos  int
}

func (l *lexer) next() token {
	for l.pos < len(l.text) && isSpace(l.text[l.pos]) {
		l.pos++
	}
	start := l.pos
	if start == len(l.text) {
		return token{end, start, ""}
	}
	c := l.text[start]
	l.pos++
	switch {
	case isLetter(c):
		l.skip(func(c byte) bool { return isLetter(c) || isDigit(c) || c == '_' })
		return token{ident, start, l.text[start:l.pos]}
	case isDigit(c):
		l.skip(func(c byte) bool { return isDigit(c) || c == '.' })
		if l.pos < len(l.text) && isLetter(l.text[l.pos]) {
			return token{illegal, l.pos, l.text[l.pos : l.pos+1]}
		}
		return token{number, start, l.text[start:l.pos]}
	}
	switch c {
	case '\'', '"':
		// Either quote ends a string whichever opened it, and so does the end of the text.
		l.skip(func(c byte) bool { return c != '\'' && c != '"' })
		s := l.text[start+1 : l.pos]
		if l.pos < len(l.text) {
			l.pos++
		}
		return token{text, start, s}
	case '.':
		return token{dot, start, "."}
	case ',':
		return token{comma, start, ","}
	case '(':
		return token{left, start, "("}
	case ')':
		return token{right, start, ")"}
	}
	_, size := utf8.DecodeRuneInString(l.text[start:])
	l.pos = start + size
	return token{illegal, start, l.text[start:l.pos]}
}

func (l *lexer) skip(in func(byte) bool) {
	for l.pos < len(l.text) && in(l.text[l.pos]) {
		l.pos++
	}
}

// isSpace leaves out the carriage return on purpose: it is illegal in the language.
func isSpace(c byte) bool  { return c == ' ' || c == '\t' || c == '\n' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
