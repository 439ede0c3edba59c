package bpf

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

type kind uint8

const (
	kindEnd kind = iota
	kindOp
	kindWord   // keyword or name
	kindName   // name that was escaped with a backslash
	kindNumber // also a word that stands for one, such as tcp-syn
	kindIP4
	kindIP6
	kindMAC
)

type token struct {
	kind kind
	text string // operators in their only form: and, or, not, =
	pos  int
	num  uint32 // of kindNumber and kindIP4
	bits int    // of kindIP4: 32, or less when not all four numbers were given
	ip6  netip.Addr
	mac  [6]byte
}

func (t token) String() string {
	if t.kind == kindEnd {
		return "the end"
	}
	return strconv.Quote(t.text)
}

// lexer splits an expression into tokens. Inside of brackets a colon is an operator, outside it is a part of addresses.
type lexer struct {
	text     string
	pos      int
	brackets int
}

func isWord(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c == '-' || c == '.'
}

func (l *lexer) next() (token, *SyntaxError) {
	for l.pos < len(l.text) && strings.IndexByte(" \t\r\n", l.text[l.pos]) >= 0 {
		l.pos++
	}
	start := l.pos
	if start == len(l.text) {
		return token{pos: start}, nil
	}
	switch c := l.text[start]; {
	case c == '\\':
		end := start + 1
		for end < len(l.text) && strings.IndexByte(" \t\r\n!()", l.text[end]) < 0 {
			end++
		}
		l.pos = end
		if end == start+1 {
			return token{}, &SyntaxError{start, `"\" stands alone`, "a name after it"}
		}
		return token{kind: kindName, text: l.text[start+1 : end], pos: start}, nil
	case c == '-' || c == '.' || c == '_' || !isWord(c) && (c != ':' || l.brackets > 0 || !strings.HasPrefix(l.text[start:], "::")):
		return l.operator()
	}
	for l.pos < len(l.text) && (isWord(l.text[l.pos]) || l.text[l.pos] == ':' && l.brackets == 0) {
		l.pos++
	}
	for l.text[l.pos-1] == '-' || l.text[l.pos-1] == '_' {
		l.pos--
	}
	return word(l.text[start:l.pos], start)
}

func (l *lexer) operator() (token, *SyntaxError) {
	rest := l.text[l.pos:]
	for _, op := range []string{"&&", "||", "<<", ">>", "<=", ">=", "!=", "=="} {
		if strings.HasPrefix(rest, op) {
			t := token{kind: kindOp, text: op, pos: l.pos}
			switch op {
			case "&&":
				t.text = "and"
			case "||":
				t.text = "or"
			case "==":
				t.text = "="
			}
			l.pos += 2
			return t, nil
		}
	}
	t := token{kind: kindOp, text: rest[:1], pos: l.pos}
	switch rest[0] {
	case '[':
		l.brackets++
	case ']':
		l.brackets = max(0, l.brackets-1)
	case '!':
		t.text = "not"
	default:
		if strings.IndexByte("()&|^=<>+-*/%:", rest[0]) < 0 {
			return token{}, &SyntaxError{l.pos, fmt.Sprintf("unexpected character %q", []rune(rest)[0]), ""}
		}
	}
	l.pos++
	return t, nil
}

// word tells what a run of letters, digits, dots, hyphens and colons is.
func word(s string, pos int) (token, *SyntaxError) {
	t := token{kind: kindWord, text: s, pos: pos}
	switch s {
	case "and", "or", "not":
		t.kind = kindOp
		return t, nil
	}
	if n, ok := constants(s); ok {
		t.kind, t.num = kindNumber, n
		return t, nil
	}
	if mac, ok := parseMAC(s); ok {
		t.kind, t.mac = kindMAC, mac
		return t, nil
	}
	if strings.Contains(s, ":") {
		ip, err := netip.ParseAddr(s)
		if err != nil {
			return t, &SyntaxError{pos, fmt.Sprintf("%q is no address", s), "an IPv6 address or an Ethernet address of six bytes"}
		}
		t.kind, t.ip6 = kindIP6, ip
		return t, nil
	}
	if s[0] < '0' || s[0] > '9' {
		return t, nil
	}
	if strings.Trim(s, "0123456789.") == "" && strings.Contains(s, ".") {
		return dotted(t)
	}
	if strings.Trim(s, "0123456789") != "" && (len(s) < 3 || s[:2] != "0x" && s[:2] != "0X") {
		return t, nil
	}
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		return t, &SyntaxError{pos, fmt.Sprintf("%q is no number", s), "at most 32 bits: decimal, hexadecimal after 0x or octal after 0"}
	}
	t.kind, t.num = kindNumber, uint32(n)
	return t, nil
}

// dotted reads two to four decimal numbers.
func dotted(t token) (token, *SyntaxError) {
	parts := strings.Split(t.text, ".")
	for _, part := range parts {
		n, err := strconv.ParseUint(part, 10, 8)
		if err != nil || len(parts) > 4 {
			return t, &SyntaxError{t.pos, fmt.Sprintf("%q is no IPv4 address", t.text), "four numbers of at most 255"}
		}
		t.num = t.num<<8 | uint32(n)
		t.bits += 8
	}
	t.kind = kindIP4
	t.num <<= 32 - t.bits
	return t, nil
}

// parseMAC reads the forms 0:1:2:3:4:5, 0-1-2-3-4-5, 0.1.2.3.4.5, 0001.0203.0405 and 000102030405.
func parseMAC(s string) (mac [6]byte, ok bool) {
	digits := s
	for _, sep := range []string{":", "-", "."} {
		parts := strings.Split(s, sep)
		width := map[int]int{6: 2, 3: 4}[len(parts)]
		if width == 0 || width == 4 && sep != "." {
			continue
		}
		for i, part := range parts {
			if part == "" || len(part) > width || width == 4 && len(part) != 4 {
				return mac, false
			}
			parts[i] = strings.Repeat("0", width-len(part)) + part
		}
		digits = strings.Join(parts, "")
		break
	}
	if len(digits) != 12 {
		return mac, false
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	for i := range mac {
		mac[5-i] = byte(n >> (8 * i))
	}
	return mac, err == nil
}
