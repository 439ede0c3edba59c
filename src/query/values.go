package query

import (
	"cmp"
	"slices"
	"strings"

	"skydive/src/field"
)

// nodeValues skips nodes that lack the field, and empty lists and objects.
func nodeValues(key string) applier {
	return func(r *run, in Result) (Result, error) {
		c := collect[field.Value](r, everything)
		for _, n := range in.(Nodes) {
			v, ok := n.Field(key)
			if !r.hold(width(v)) || ok && !hollow(v) && !c.add(v) {
				break
			}
		}
		return Values(c.out), nil
	}
}

// width is how many elements a value counts for besides itself: a path through a list makes a new one.
func width(v field.Value) int {
	l, _ := v.(field.List)
	return len(l)
}

func hollow(v field.Value) bool {
	switch v := v.(type) {
	case field.List:
		return len(v) == 0
	case field.Object:
		return len(v) == 0
	}
	return false
}

// valueMap skips nodes that have none of the fields.
func valueMap(keys []string) applier {
	keys = unique(keys)
	return func(r *run, in Result) (Result, error) {
		c := collect[field.Value](r, everything)
		for _, n := range in.(Nodes) {
			var o field.Object
			for _, k := range keys {
				if v, ok := n.Field(k); ok {
					o = append(o, field.Entry{Key: k, Value: v})
					r.hold(1 + width(v))
				}
			}
			if !r.ok() || len(o) > 0 && !c.add(o) {
				break
			}
		}
		return Values(c.out), nil
	}
}

// unique returns the keys in order, each once.
func unique(keys []string) []string { return slices.Compact(slices.Sorted(slices.Values(keys))) }

// nodeKeys lists every field that some node has.
func nodeKeys(r *run, in Result) (Result, error) {
	seen := make(map[string]struct{})
	for _, n := range in.(Nodes) {
		for _, p := range n.Metadata.Paths() {
			seen[p] = struct{}{}
		}
		if !r.ok() {
			return nil, r.err
		}
	}
	if in.size() > 0 {
		for _, k := range [...]string{"@ID", "@Host", "@Origin", "@CreatedAt", "@UpdatedAt", "@DeletedAt", "@Revision"} {
			seen[k] = struct{}{}
		}
	}
	return keyList(seen), nil
}

func keyList(seen map[string]struct{}) Values {
	var out Values
	for k := range seen {
		out = append(out, k)
	}
	slices.SortFunc(out, compare)
	return out
}

// total adds integers exactly for as long as there are only integers.
type total struct {
	ints    int64
	floats  float64
	floated bool
}

func (t *total) add(v field.Value) bool {
	switch v := v.(type) {
	case int64:
		t.ints += v
	case float64:
		t.floats += v
		t.floated = true
	default:
		return false
	}
	return true
}

func (t *total) value() field.Value {
	if t.floated {
		return t.floats + float64(t.ints)
	}
	return t.ints
}

func sumNodes(key string) applier {
	return func(r *run, in Result) (Result, error) {
		var sum total
		for _, n := range in.(Nodes) {
			if v, ok := n.Field(key); ok && v != nil && !sum.add(v) {
				return nil, usage("%s of node %s is not a number", key, n.ID)
			}
			if !r.ok() {
				break
			}
		}
		return Value{sum.value()}, nil
	}
}

// filterValues keeps objects that pass, and lists in which an object does.
func filterValues(f filter) applier {
	return func(r *run, in Result) (Result, error) {
		c := collect[field.Value](r, everything)
		match := f.on(r)
		for _, v := range in.(Values) {
			if !r.ok() || passes(match, v) && !c.add(v) {
				break
			}
		}
		return Values(c.out), nil
	}
}

func passes(f field.Filter, v field.Value) bool {
	switch v := v.(type) {
	case field.Object:
		return f.Match(v)
	case field.List:
		return slices.ContainsFunc(v, func(item field.Value) bool { return passes(f, item) })
	}
	return false
}

func dedupValues(r *run, in Result) (Result, error) {
	c := collect[field.Value](r, everything)
	seen := make(map[string]struct{})
	var buf []byte
	for _, v := range in.(Values) {
		buf = field.AppendJSON(buf[:0], v)
		if _, dup := seen[string(buf)]; dup && r.ok() {
			continue
		}
		seen[string(buf)] = struct{}{}
		if !r.hold(len(buf)/bytesPerElement) || !c.add(v) {
			break
		}
	}
	return Values(c.out), nil
}

// compare orders values of any types: nothing, booleans, numbers, text, then the rest as JSON.
func compare(a, b field.Value) int {
	if x, y := rank(a), rank(b); x != y {
		return x - y
	}
	switch a := a.(type) {
	case nil:
		return 0
	case bool:
		if a == b.(bool) {
			return 0
		} else if a {
			return 1
		}
		return -1
	case int64:
		if b, ok := b.(int64); ok {
			return cmp.Compare(a, b)
		}
		return cmp.Compare(float64(a), b.(float64))
	case float64:
		if b, ok := b.(int64); ok {
			return cmp.Compare(a, float64(b))
		}
		return cmp.Compare(a, b.(float64))
	case string:
		return strings.Compare(a, b.(string))
	}
	return strings.Compare(string(field.AppendJSON(nil, a)), string(field.AppendJSON(nil, b)))
}

func rank(v field.Value) int {
	switch v.(type) {
	case nil:
		return 0
	case bool:
		return 1
	case int64, float64:
		return 2
	case string:
		return 3
	}
	return 4
}
