// Package field holds the values that nodes, edges and flows carry: an immutable tree of plain data, looked up by dotted
// paths, compared, filtered and written as JSON.
//
// It knows nothing of the things that carry the values, and does no I/O.
package field

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sort"
	"strings"
	"time"
)

// Value is one of nil, bool, int64, float64, string, List or Object. Nothing else is ever stored: Normalize turns other Go
// values into one of these.
type Value = any

// List is an ordered list of values.
type List []Value

// Entry is one key of an Object.
type Entry struct {
	Key   string
	Value Value
}

// Object maps keys to values. Entries are sorted by key and keys are unique. An Object is immutable once built: every change
// returns a new one, so that snapshots and goroutines may share it without a lock.
type Object []Entry

// Reasons why a value cannot be set.
var (
	ErrNotObject = errors.New("not an object")                          // the path runs through a value that has no keys
	ErrTooDeep   = fmt.Errorf("nested deeper than %d levels", maxDepth) // decoders would refuse it
)

// maxDepth bounds how deep values nest, so that no input can exhaust the stack of a recursive walk.
const maxDepth = 64

// Normalize turns a Go value into a Value: every integer type becomes int64, whole floats become int64 (as JSON numbers of the
// public Skydive do), times become milliseconds since the epoch, maps with string keys become Objects and slices Lists.
func Normalize(v any) (Value, error) {
	switch v := v.(type) {
	case nil, bool, int64, string, Object:
		return v, nil
	case float64:
		return number(v), nil
	case List:
		return v, nil
	case int:
		return int64(v), nil
	case time.Time:
		return v.UnixMilli(), nil
	case []string:
		l := make(List, len(v))
		for i, s := range v {
			l[i] = s
		}
		return l, nil
	case map[string]any:
		return FromMap(v)
	case fmt.Stringer:
		return v.String(), nil
	}
	return normalizeKind(reflect.ValueOf(v))
}

func normalizeKind(r reflect.Value) (Value, error) {
	switch r.Kind() {
	case reflect.Bool:
		return r.Bool(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return r.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if u := r.Uint(); u <= math.MaxInt64 {
			return int64(u), nil
		}
		return float64(r.Uint()), nil
	case reflect.Float32, reflect.Float64:
		return number(r.Float()), nil
	case reflect.String:
		return r.String(), nil
	case reflect.Slice, reflect.Array:
		l := make(List, r.Len())
		for i := range l {
			v, err := Normalize(r.Index(i).Interface())
			if err != nil {
				return nil, err
			}
			l[i] = v
		}
		return l, nil
	case reflect.Map:
		m := make(map[string]any, r.Len())
		for _, k := range r.MapKeys() {
			m[fmt.Sprint(k.Interface())] = r.MapIndex(k).Interface()
		}
		return FromMap(m)
	case reflect.Pointer, reflect.Interface:
		if r.IsNil() {
			return nil, nil
		}
		return Normalize(r.Elem().Interface())
	}
	return nil, fmt.Errorf("value of type %s cannot be metadata", r.Type())
}

// number keeps a float only when it has a fraction or does not fit an int64.
func number(f float64) Value {
	if f == math.Trunc(f) && math.Abs(f) < 1<<63 {
		return int64(f)
	}
	return f
}

// Make builds an Object from alternating keys and values; values are normalised. It panics on an odd count, a key that is not
// a string or a value that Normalize refuses: all are mistakes in the program, not in its input.
func Make(pairs ...any) Object {
	if len(pairs)%2 != 0 {
		panic("field.Make: a key without a value")
	}
	o := make(Object, 0, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		v, err := Normalize(pairs[i+1])
		if err != nil {
			panic("field.Make: " + err.Error())
		}
		o = append(o, Entry{pairs[i].(string), v})
	}
	return sorted(o)
}

// FromMap builds an Object from a map, normalising its values.
func FromMap(m map[string]any) (Object, error) {
	o := make(Object, 0, len(m))
	for k, v := range m {
		n, err := Normalize(v)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", k, err)
		}
		o = append(o, Entry{k, n})
	}
	return sorted(o), nil
}

// sorted puts entries in order; of equal keys the last one given wins. It takes over o.
func sorted(o Object) Object {
	inOrder := true
	for i := 1; i < len(o) && inOrder; i++ {
		inOrder = o[i-1].Key < o[i].Key
	}
	if inOrder {
		return o
	}
	slices.SortStableFunc(o, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	out := o[:0]
	for i, e := range o {
		if i+1 < len(o) && o[i+1].Key == e.Key {
			continue
		}
		out = append(out, e)
	}
	return out
}

// find returns where key is, or where it would be inserted.
func (o Object) find(key string) (int, bool) {
	if len(o) <= 12 { // a linear scan beats binary search on the few keys that most objects have
		for i := range o {
			if o[i].Key >= key {
				return i, o[i].Key == key
			}
		}
		return len(o), false
	}
	i := sort.Search(len(o), func(i int) bool { return o[i].Key >= key })
	return i, i < len(o) && o[i].Key == key
}

// Get returns the value of one key of this level; the key is taken literally, dots included.
func (o Object) Get(key string) (Value, bool) {
	if i, ok := o.find(key); ok {
		return o[i].Value, true
	}
	return nil, false
}

// Lookup follows a dotted path. A list on the way contributes the sub-field of each of its objects, so the answer is then a
// List. Keys that hold dots themselves (container labels) are found too, when no shorter key leads to the rest of the path.
func (o Object) Lookup(path string) (Value, bool) {
	if v, ok := o.Get(path); ok {
		return v, true
	}
	for i := 0; i < len(path); i++ {
		if path[i] != '.' {
			continue
		}
		v, ok := o.Get(path[:i])
		if !ok {
			continue
		}
		if r, ok := descend(v, path[i+1:]); ok {
			return r, true
		}
	}
	return nil, false
}

func descend(v Value, path string) (Value, bool) {
	switch v := v.(type) {
	case Object:
		return v.Lookup(path)
	case List:
		var found List
		some := false
		for _, item := range v {
			sub, ok := descend(item, path)
			if !ok {
				continue
			}
			some = true
			if l, isList := sub.(List); isList {
				found = append(found, l...)
			} else {
				found = append(found, sub)
			}
		}
		if some {
			return found, true
		}
	}
	return nil, false
}

// Text returns the string at path, or "" when there is none.
func (o Object) Text(path string) string {
	v, _ := o.Lookup(path)
	s, _ := v.(string)
	return s
}

// Int returns the integer at path.
func (o Object) Int(path string) (int64, bool) {
	v, _ := o.Lookup(path)
	n, ok := v.(int64)
	return n, ok
}

// Set returns a copy of o in which the dotted path holds v, creating the objects that are missing on the way; a key that is the
// whole path, dots included, goes first, as in Lookup. It returns ErrNotObject when a value on the way has no keys, ErrTooDeep
// when v would be nested too deep; o is then returned unchanged.
func (o Object) Set(path string, v Value) (Object, error) {
	if shallow(v, maxDepth-strings.Count(path, ".")-1) {
		return o.set(path, v)
	}
	return o, ErrTooDeep
}

// shallow tells whether v nests at most levels deep.
func shallow(v Value, levels int) bool {
	if levels < 0 {
		return false
	}
	switch v := v.(type) {
	case Object:
		for i := range v {
			if !shallow(v[i].Value, levels-1) {
				return false
			}
		}
	case List:
		for i := range v {
			if !shallow(v[i], levels-1) {
				return false
			}
		}
	}
	return true
}

func (o Object) set(path string, v Value) (Object, error) {
	key, rest, nested := o.step(path)
	i, ok := o.find(key)
	if nested {
		var child Object
		if ok {
			if child, ok = o[i].Value.(Object); !ok {
				return o, fmt.Errorf("set %q: %q is %w", path, key, ErrNotObject)
			}
		}
		sub, err := child.set(rest, v)
		if err != nil {
			return o, err
		}
		v = sub
	}
	if ok {
		out := slices.Clone(o)
		out[i].Value = v
		return out, nil
	}
	out := make(Object, 0, len(o)+1)
	out = append(append(append(out, o[:i]...), Entry{key, v}), o[i:]...)
	return out, nil
}

// step splits a path into a key of o and the path below it.
func (o Object) step(path string) (key, rest string, nested bool) {
	if _, ok := o.find(path); ok {
		return path, "", false
	}
	return strings.Cut(path, ".")
}

// Delete returns a copy of o without the dotted path; objects that become empty on the way go too. A path that does not exist
// changes nothing.
func (o Object) Delete(path string) Object {
	key, rest, nested := o.step(path)
	i, ok := o.find(key)
	if !ok {
		return o
	}
	if nested {
		child, isObject := o[i].Value.(Object)
		if !isObject {
			return o
		}
		sub := child.Delete(rest)
		if len(sub) == len(child) && Equal(sub, child) {
			return o
		}
		if len(sub) > 0 {
			out := slices.Clone(o)
			out[i].Value = sub
			return out
		}
	}
	out := make(Object, 0, len(o)-1)
	return append(append(out, o[:i]...), o[i+1:]...)
}

// Paths lists every dotted path of o in order: each key, and below it the keys of objects and of objects in lists.
func (o Object) Paths() []string {
	seen := make(map[string]struct{})
	o.addPaths("", seen)
	paths := make([]string, 0, len(seen))
	for p := range seen {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

func (o Object) addPaths(prefix string, seen map[string]struct{}) {
	for _, e := range o {
		path := prefix + e.Key
		seen[path] = struct{}{}
		switch v := e.Value.(type) {
		case Object:
			v.addPaths(path+".", seen)
		case List:
			for _, item := range v {
				if sub, ok := item.(Object); ok {
					sub.addPaths(path+".", seen)
				}
			}
		}
	}
}

// Map returns o as plain Go maps and slices, which the caller may change.
func (o Object) Map() map[string]any {
	m := make(map[string]any, len(o))
	for _, e := range o {
		m[e.Key] = plain(e.Value)
	}
	return m
}

func plain(v Value) any {
	switch v := v.(type) {
	case Object:
		return v.Map()
	case List:
		l := make([]any, len(v))
		for i := range v {
			l[i] = plain(v[i])
		}
		return l
	}
	return v
}

// Equal tells whether two values are the same in type and content; 1 and 1.0 cannot both occur (see Normalize).
func Equal(a, b Value) bool {
	switch a := a.(type) {
	case Object:
		b, ok := b.(Object)
		if !ok || len(a) != len(b) {
			return false
		}
		if len(a) > 0 && &a[0] == &b[0] {
			return true
		}
		for i := range a {
			if a[i].Key != b[i].Key || !Equal(a[i].Value, b[i].Value) {
				return false
			}
		}
		return true
	case List:
		b, ok := b.(List)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !Equal(a[i], b[i]) {
				return false
			}
		}
		return true
	}
	switch b.(type) {
	case Object, List:
		return false
	}
	return a == b
}
