package openflow

import (
	"strconv"
	"strings"
)

// list collects the arguments of an action that writes them as name(a,b=1).
type list struct {
	action Action
	parts  []string
}

// add adds an argument, written as text.
func (l *list) add(name string, value any, text string) {
	l.action = l.action.with(name, value)
	l.parts = append(l.parts, text)
}

// number adds key=n.
func (l *list) number(name, key string, n uint64) {
	l.add(name, int64(n), key+"="+strconv.FormatUint(n, 10))
}

// positive adds key=n unless n is zero.
func (l *list) positive(name, key string, n uint64) {
	if n != 0 {
		l.number(name, key, n)
	}
}

// flag adds a word when it applies.
func (l *list) flag(name, word string, on bool) {
	if on {
		l.add(name, true, word)
	}
}

func (l *list) done() Action {
	l.action.text = l.action.Type + "(" + strings.Join(l.parts, ",") + ")"
	return l.action
}

func newList(kind string) *list { return &list{action: Action{Type: kind}} }
