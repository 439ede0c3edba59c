package disk

import (
	"encoding/binary"

	"skydive/src/field"
	"skydive/src/graph"
)

// counting tells how the value of a metadata key counts: changes of what counts are metrics and not revisions of the graph, or else
// history would be mostly counters.
type counting uint8

const (
	plain  counting = iota // not at all
	wholly                 // all of it
	partly                 // a key or two of the object
	listed                 // the numbers in a list of objects
)

func countingOf(key string) counting {
	switch key {
	case "Metric", "LastUpdateMetric", "BlockdevMetric", "SFlow":
		return wholly
	case "Ovs":
		return partly
	case "Captures", "PacketInjections":
		return listed
	}
	return plain
}

// sameRevision tells whether two metadata differ in counters only.
func sameRevision(a, b field.Object) bool {
	return alike(a, b, countingOf, func(how counting, x, y field.Value) bool {
		switch how {
		case partly:
			return sameObject(x, y, countingOf)
		case listed:
			return sameList(x, y)
		}
		return false
	})
}

// alike compares two objects but for the keys that count wholly; those that count otherwise are compared by deep.
func alike(a, b field.Object, of func(string) counting, deep func(how counting, x, y field.Value) bool) bool {
	for i, j := 0, 0; ; i, j = i+1, j+1 {
		for i < len(a) && of(a[i].Key) == wholly {
			i++
		}
		for j < len(b) && of(b[j].Key) == wholly {
			j++
		}
		if i == len(a) || j == len(b) {
			return i == len(a) && j == len(b)
		}
		if a[i].Key != b[j].Key {
			return false
		}
		if field.Equal(a[i].Value, b[j].Value) {
			continue
		}
		if how := of(a[i].Key); how == plain || !deep(how, a[i].Value, b[j].Value) {
			return false
		}
	}
}

func sameObject(x, y field.Value, of func(string) counting) bool {
	a, ok := x.(field.Object)
	b, also := y.(field.Object)
	return ok && also && alike(a, b, of, func(counting, field.Value, field.Value) bool { return false })
}

// sameList compares the objects of two lists but for their numbers.
func sameList(x, y field.Value) bool {
	a, ok := x.(field.List)
	b, also := y.(field.List)
	if !ok || !also || len(a) != len(b) {
		return false
	}
	for i := range a {
		if !sameButNumbers(a[i], b[i]) {
			return false
		}
	}
	return true
}

func sameButNumbers(x, y field.Value) bool {
	a, ok := x.(field.Object)
	b, also := y.(field.Object)
	if !ok || !also {
		return field.Equal(x, y)
	}
	for i, j := 0, 0; ; i, j = i+1, j+1 {
		for i < len(a) && isNumber(a[i].Value) {
			i++
		}
		for j < len(b) && isNumber(b[j].Value) {
			j++
		}
		if i == len(a) || j == len(b) {
			return i == len(a) && j == len(b)
		}
		if a[i].Key != b[j].Key || !field.Equal(a[i].Value, b[j].Value) {
			return false
		}
	}
}

func isNumber(v field.Value) bool {
	switch v.(type) {
	case int64, float64:
		return true
	}
	return false
}

// countersOf returns the part of the metadata that counts, whole keys: it holds other things too, which do no harm.
func countersOf(m field.Object) field.Object {
	n := 0
	for i := range m {
		if countingOf(m[i].Key) != plain {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	o := make(field.Object, 0, n)
	for i := range m {
		if countingOf(m[i].Key) != plain {
			o = append(o, m[i])
		}
	}
	return o
}

// withCounters returns metadata with its counters exchanged.
func withCounters(m, counters field.Object) field.Object {
	o := make(field.Object, 0, len(m)+len(counters))
	j := 0
	for i := range m {
		if countingOf(m[i].Key) != plain {
			continue
		}
		for j < len(counters) && counters[j].Key < m[i].Key {
			o = append(o, counters[j])
			j++
		}
		o = append(o, m[i])
	}
	return append(o, counters[j:]...)
}

// counts is a record of the counters of a node as of a time.
type counts struct {
	updated  graph.Time
	revision int64
	counters field.Object
}

func (c *counts) append(dst []byte) []byte {
	dst = binary.AppendVarint(dst, int64(c.updated))
	dst = binary.AppendVarint(dst, c.revision)
	return appendValue(dst, c.counters)
}

func (r *reader) counts(b []byte) (c counts, err error) {
	r.b, r.err = b, nil
	c.updated, c.revision = graph.Time(r.varint()), r.varint()
	c.counters = r.object()
	if r.err == nil && len(r.b) > 0 {
		r.fail()
	}
	return c, r.err
}
