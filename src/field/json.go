package field

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// AppendJSON appends v as JSON. Keys come sorted, numbers as encoding/json writes them; NaN and infinities, which JSON lacks,
// become null.
func AppendJSON(dst []byte, v Value) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return append(dst, "null"...)
		}
		format := byte('f')
		if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
			format = 'e'
		}
		return strconv.AppendFloat(dst, v, format, -1, 64)
	case string:
		return AppendString(dst, v)
	case List:
		dst = append(dst, '[')
		for i := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendJSON(dst, v[i])
		}
		return append(dst, ']')
	case Object:
		return v.AppendJSON(dst)
	}
	panic(fmt.Sprintf("field: %T is not a Value", v))
}

// AppendJSON appends o as JSON.
func (o Object) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	for i := range o {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendString(dst, o[i].Key)
		dst = append(dst, ':')
		dst = AppendJSON(dst, o[i].Value)
	}
	return append(dst, '}')
}

// AppendString appends s as a JSON string; bytes that are not UTF-8 become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	plain := true
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			plain = false
			break
		}
	}
	if plain {
		dst = append(dst, '"')
		dst = append(dst, s...)
		return append(dst, '"')
	}
	// The only error is invalid UTF-8, and then the replaced text has been appended all the same.
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}

// MarshalJSON writes o with sorted keys; a nil Object is {}.
func (o Object) MarshalJSON() ([]byte, error) { return o.AppendJSON(nil), nil }

// UnmarshalJSON reads an object; null leaves an empty one.
func (o *Object) UnmarshalJSON(data []byte) error {
	v, err := ParseJSON(data)
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
		*o = nil
	case Object:
		*o = v
	default:
		return fmt.Errorf("%w: %s", ErrNotObject, data[:min(len(data), 32)])
	}
	return nil
}

// ParseJSON reads exactly one JSON value.
func ParseJSON(data []byte) (Value, error) {
	dec := NewJSON(bytes.NewBuffer(data))
	v, err := NewDecoder().Value(dec)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return nil, errors.New("unexpected text after the JSON value")
	}
	return v, nil
}

// NewJSON returns a token reader that takes what real clients send: duplicate names (the last one wins) and bytes that are not
// UTF-8 (replaced).
func NewJSON(r io.Reader) *jsontext.Decoder {
	return jsontext.NewDecoder(r, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// Decoder reads Values from a token stream. What repeats – keys, types, states, the metadata of edges – is stored once, in tables
// of fixed size. A Decoder belongs to one goroutine.
type Decoder struct {
	seed    maphash.Seed
	strings [512][2]Value // by hash, the one used last first, so that the many that come once do not drive out the common ones
	numbers [256]Value    // the low ones need no table: Go keeps one of each up to 255
	objects [256]Value
	scratch []Entry
	buf     []byte
}

// NewDecoder returns an empty Decoder.
func NewDecoder() *Decoder { return &Decoder{seed: maphash.MakeSeed()} }

// Value reads the next value of dec. Integers up to 64 bits are exact; whole floats become int64.
func (d *Decoder) Value(dec *jsontext.Decoder) (Value, error) { return d.value(dec, 0) }

func (d *Decoder) value(dec *jsontext.Decoder, depth int) (Value, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("JSON %w", ErrTooDeep)
	}
	switch dec.PeekKind() {
	case '{':
		return d.object(dec, depth)
	case '[':
		if _, err := dec.ReadToken(); err != nil {
			return nil, err
		}
		list := List{}
		for dec.PeekKind() != ']' {
			v, err := d.value(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.ReadToken()
		return list, err
	case '"':
		text, err := d.text(dec)
		if err != nil {
			return nil, err
		}
		return d.intern(text), nil
	case '0':
		raw, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		return d.number(raw)
	}
	tok, err := dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch tok.Kind() {
	case 't':
		return true, nil
	case 'f':
		return false, nil
	case 'n':
		return nil, nil
	}
	return nil, fmt.Errorf("unexpected JSON token %s", tok.Kind())
}
func (d *Decoder) object(dec *jsontext.Decoder, depth int) (Value, error) {
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	base := len(d.scratch)
	defer func() {
		clear(d.scratch[base:])
		d.scratch = d.scratch[:base]
	}()
	for dec.PeekKind() != '}' {
		key, err := d.Text(dec)
		if err != nil {
			return nil, err
		}
		v, err := d.value(dec, depth+1)
		if err != nil {
			return nil, err
		}
		d.scratch = append(d.scratch, Entry{key, v})
	}
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	found := sorted(d.scratch[base:])
	if len(found) > shareLimit {
		return clone(found), nil
	}
	slot := &d.objects[d.hash(found)%uint64(len(d.objects))]
	if !Equal(*slot, found) {
		*slot = clone(found)
	}
	return *slot, nil
}

// clone copies o without room to grow.
func clone(o Object) Object {
	c := make(Object, len(o))
	copy(c, o)
	return c
}

// shareLimit is how many entries an object may have that is looked for among the last ones: most larger ones are unique.
const shareLimit = 2

// hash tells small objects apart well enough to find most that repeat.
func (d *Decoder) hash(o Object) (h uint64) {
	for i := range o {
		h += maphash.String(d.seed, o[i].Key)
		if s, ok := o[i].Value.(string); ok {
			h = h<<1 ^ maphash.String(d.seed, s)
		}
	}
	return h
}

// Text reads a JSON string, stored once when it repeats.
func (d *Decoder) Text(dec *jsontext.Decoder) (string, error) {
	text, err := d.text(dec)
	if err != nil {
		return "", err
	}
	if len(text) > internLimit {
		return string(text), nil // not by way of a Value, which would take memory of its own
	}
	return d.intern(text).(string), nil
}

// text reads a JSON string; the result is valid until the next read.
func (d *Decoder) text(dec *jsontext.Decoder) ([]byte, error) {
	raw, err := dec.ReadValue()
	if err != nil {
		return nil, err
	}
	if raw.Kind() != '"' {
		return nil, fmt.Errorf("expected a JSON string, found %.32s", raw)
	}
	text := raw[1 : len(raw)-1]
	if !verbatim(text) {
		d.buf, err = jsontext.AppendUnquote(d.buf[:0], raw)
		if err != nil && !utf8.Valid(d.buf) {
			return nil, err
		}
		text = d.buf
	}
	return text, nil
}

// verbatim tells whether text needs no unquoting, going by the bytes that most text is made of.
func verbatim(text []byte) bool {
	for _, c := range text {
		if c == '\\' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// internLimit is the longest text worth a slot: identifiers are longer, and mostly unique.
const internLimit = 32

func (d *Decoder) intern(text []byte) Value {
	if len(text) > internLimit {
		return string(text)
	}
	slot := &d.strings[maphash.Bytes(d.seed, text)%uint64(len(d.strings))]
	if s, ok := slot[0].(string); ok && s == string(text) {
		return slot[0]
	}
	slot[0], slot[1] = slot[1], slot[0]
	if s, ok := slot[0].(string); !ok || s != string(text) {
		slot[0] = string(text)
	}
	return slot[0]
}

func (d *Decoder) number(raw []byte) (Value, error) {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		v, err := parseNumber(string(raw))
		if err != nil {
			return nil, fmt.Errorf("number %.40s: %w", raw, err)
		}
		return v, nil
	}
	slot := &d.numbers[uint64(n)%uint64(len(d.numbers))]
	if v, ok := (*slot).(int64); !ok || v != n {
		*slot = n
	}
	return *slot, nil
}

// parseNumber reads a decimal number, exactly when it is an integer of 64 bits.
func parseNumber(s string) (Value, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	return number(f), err
}
