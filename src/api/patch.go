package api

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"skydive/src/field"
)

// patch is a JSON patch (RFC 6902). One thing is looser than there: replace also adds a missing key, as public clients expect.
type patch []operation

type operation struct {
	op         string
	path, from pointer
	value      field.Value
}

// pointer is a JSON pointer (RFC 6901), split and unescaped; the empty one is the whole document.
type pointer []string

// Bounds of a patch: a few copy operations could otherwise double a document beyond all memory.
const (
	maxOperations = 1000
	maxCopied     = maxBody // bytes, roughly
	maxNesting    = 64      // levels of a patched document
)

func parsePatch(data []byte) (patch, error) {
	doc, err := field.ParseJSON(data)
	if err != nil {
		return nil, err
	}
	list, ok := doc.(field.List)
	if !ok {
		return nil, errors.New("want a list of operations")
	}
	if len(list) > maxOperations {
		return nil, fmt.Errorf("more than %d operations", maxOperations)
	}
	p := make(patch, len(list))
	for i := range list {
		if p[i], err = parseOperation(list[i]); err != nil {
			return nil, fmt.Errorf("operation %d: %w", i, err)
		}
	}
	return p, nil
}

func parseOperation(v field.Value) (o operation, err error) {
	object, ok := v.(field.Object)
	if !ok {
		return o, errors.New("want an object")
	}
	text := func(key string) string {
		v, _ := object.Get(key)
		s, ok := v.(string)
		if !ok && err == nil {
			err = fmt.Errorf("want %q to be a string", key)
		}
		return s
	}
	o.op = text("op")
	path := text("path")
	var from string
	switch o.op {
	case "add", "replace", "test":
		if o.value, ok = object.Get("value"); !ok && err == nil {
			err = errors.New(`"value" is missing`)
		}
	case "copy", "move":
		from = text("from")
	case "remove":
	default:
		if err == nil {
			err = fmt.Errorf("unknown operation %q", o.op)
		}
	}
	if err != nil {
		return o, err
	}
	if o.path, err = parsePointer(path); err == nil {
		o.from, err = parsePointer(from)
	}
	return o, err
}

func parsePointer(s string) (pointer, error) {
	if s == "" {
		return nil, nil
	}
	if s[0] != '/' {
		return nil, fmt.Errorf("path %q does not begin with /", s)
	}
	p := pointer(strings.Split(s[1:], "/"))
	if len(p) > maxNesting {
		return nil, fmt.Errorf("path of more than %d levels", maxNesting)
	}
	for i, token := range p {
		if strings.Contains(token, "~") {
			if rest := strings.NewReplacer("~0", "", "~1", "").Replace(token); strings.Contains(rest, "~") {
				return nil, fmt.Errorf("path %q: want ~0 or ~1", s)
			}
			p[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
		}
	}
	return p, nil
}

func (p pointer) String() string {
	var b strings.Builder
	for _, token := range p {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(token))
	}
	return b.String()
}

// apply returns the patched document; doc itself is not changed.
func (p patch) apply(doc field.Value) (field.Value, error) {
	copied := maxCopied
	for _, o := range p {
		var err error
		if doc, err = o.apply(doc, &copied); err != nil {
			return nil, fmt.Errorf("%s %s: %w", o.op, o.path, err)
		}
	}
	if tooDeep(doc, maxNesting) {
		return nil, fmt.Errorf("the result nests deeper than %d levels", maxNesting)
	}
	return doc, nil
}

func (o operation) apply(doc field.Value, copied *int) (field.Value, error) {
	switch o.op {
	case "add":
		return put(doc, o.path, o.value, true)
	case "replace":
		return put(doc, o.path, o.value, false)
	case "remove":
		return remove(doc, o.path)
	case "test":
		v, err := o.path.in(doc)
		if err == nil && !field.Equal(v, o.value) {
			err = errors.New("test failed")
		}
		return doc, err
	}
	v, err := o.from.in(doc)
	if err != nil {
		return nil, fmt.Errorf("from %s: %w", o.from, err)
	}
	if o.op == "move" {
		if slices.Equal(o.from, o.path) {
			return doc, nil
		}
		if len(o.from) < len(o.path) && slices.Equal(o.from, o.path[:len(o.from)]) {
			return nil, errors.New("a value cannot be moved into itself")
		}
		if doc, err = remove(doc, o.from); err != nil {
			return nil, err
		}
	} else if *copied = weigh(v, *copied); *copied < 0 {
		return nil, errors.New("the patch copies too much")
	}
	return put(doc, o.path, v, true)
}

// weigh subtracts what v takes from a budget, and stops when that is used up.
func weigh(v field.Value, budget int) int {
	budget -= 16
	switch v := v.(type) {
	case string:
		budget -= len(v)
	case field.List:
		for i := 0; i < len(v) && budget >= 0; i++ {
			budget = weigh(v[i], budget)
		}
	case field.Object:
		for i := 0; i < len(v) && budget >= 0; i++ {
			budget = weigh(v[i].Value, budget-len(v[i].Key))
		}
	}
	return budget
}

func tooDeep(v field.Value, levels int) bool {
	if levels < 0 {
		return true
	}
	switch v := v.(type) {
	case field.List:
		return slices.ContainsFunc(v, func(e field.Value) bool { return tooDeep(e, levels-1) })
	case field.Object:
		return slices.ContainsFunc(v, func(e field.Entry) bool { return tooDeep(e.Value, levels-1) })
	}
	return false
}

var errMissing = errors.New("there is no such value")

// in looks a pointer up.
func (p pointer) in(doc field.Value) (field.Value, error) {
	for _, token := range p {
		child, ok := step(doc, token)
		if !ok {
			return nil, errMissing
		}
		doc = child
	}
	return doc, nil
}

func step(v field.Value, token string) (field.Value, bool) {
	switch v := v.(type) {
	case field.Object:
		return v.Get(token)
	case field.List:
		if i, ok := index(token, len(v)); ok {
			return v[i], true
		}
	}
	return nil, false
}

// index reads a position below n; leading zeros are not allowed.
func index(token string, n int) (int, bool) {
	i, err := strconv.ParseUint(token, 10, 31)
	return int(i), err == nil && int(i) < n && strconv.Itoa(int(i)) == token
}

// change rebuilds a document with another container at the parent of p.
func change(doc field.Value, p pointer, edit func(container field.Value, token string) (field.Value, error)) (field.Value, error) {
	if len(p) == 1 {
		return edit(doc, p[0])
	}
	child, ok := step(doc, p[0])
	if !ok {
		return nil, errMissing
	}
	child, err := change(child, p[1:], edit)
	if err != nil {
		return nil, err
	}
	return with(doc, p[0], child, false)
}

// put adds or replaces the value at p; insert makes room in a list instead of replacing.
func put(doc field.Value, p pointer, v field.Value, insert bool) (field.Value, error) {
	if len(p) == 0 {
		return v, nil
	}
	return change(doc, p, func(container field.Value, token string) (field.Value, error) {
		return with(container, token, v, insert)
	})
}

// with returns a copy of a container with one value set.
func with(container field.Value, token string, v field.Value, insert bool) (field.Value, error) {
	switch c := container.(type) {
	case field.Object:
		i, found := slices.BinarySearchFunc(c, token, func(e field.Entry, key string) int { return strings.Compare(e.Key, key) })
		if found {
			c = slices.Clone(c)
			c[i].Value = v
			return c, nil
		}
		return slices.Insert(slices.Clip(c), i, field.Entry{Key: token, Value: v}), nil
	case field.List:
		if insert && token == "-" {
			return append(slices.Clip(c), v), nil
		}
		room := len(c)
		if insert {
			room++
		}
		i, ok := index(token, room)
		if !ok {
			return nil, errMissing
		}
		if insert {
			return slices.Insert(slices.Clip(c), i, v), nil
		}
		c = slices.Clone(c)
		c[i] = v
		return c, nil
	}
	return nil, errMissing
}

func remove(doc field.Value, p pointer) (field.Value, error) {
	if len(p) == 0 {
		return nil, errors.New("the whole document cannot be removed")
	}
	return change(doc, p, func(container field.Value, token string) (field.Value, error) {
		switch c := container.(type) {
		case field.Object:
			i, found := slices.BinarySearchFunc(c, token, func(e field.Entry, key string) int { return strings.Compare(e.Key, key) })
			if found {
				return slices.Delete(slices.Clone(c), i, i+1), nil
			}
		case field.List:
			if i, ok := index(token, len(c)); ok {
				return slices.Delete(slices.Clone(c), i, i+1), nil
			}
		}
		return nil, errMissing
	})
}
