package flow

import (
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"skydive/src/field"
)

// filterNames are the names of the kinds in JSON.
var filterNames = [...]string{
	TermString: "TermStringFilter", TermInt64: "TermInt64Filter", TermBool: "TermBoolFilter",
	GtInt64: "GtInt64Filter", LtInt64: "LtInt64Filter", GteInt64: "GteInt64Filter", LteInt64: "LteInt64Filter",
	Bool: "BoolFilter", Regex: "RegexFilter", Null: "NullFilter", IPv4Range: "IPV4RangeFilter",
}

var opNames = [...]string{OpOr: "OR", OpAnd: "AND", OpNot: "NOT"}

// maxFilterDepth bounds how deep filters nest.
const maxFilterDepth = 64

var errFilterDepth = fmt.Errorf("filter nested deeper than %d levels", maxFilterDepth)

func (k FilterKind) hasText() bool { return k == TermString || k == Regex || k == IPv4Range }

// newFilter makes the filter that was read.
func newFilter(kind FilterKind, key, value string, n int64) (*Filter, error) {
	switch kind {
	case TermString:
		return textFilter(key, value), nil
	case Regex:
		return regexFilter(key, value)
	case IPv4Range:
		return networkFilter(key, value)
	case Null:
		return nullFilter(key), nil
	}
	return numberFilter(kind, key, n), nil
}

// AppendProto appends the filter as message Filter.
func (f *Filter) AppendProto(dst []byte) []byte {
	if f == nil || f.Kind == Everything {
		return dst
	}
	dst = append(protowire.AppendTag(dst, protowire.Number(f.Kind), protowire.BytesType), 0)
	at := len(dst)
	if f.Kind == Bool {
		dst = appendNumber(dst, 1, uint64(f.Op))
		for _, sub := range f.Filters {
			dst = append(protowire.AppendTag(dst, 2, protowire.BytesType), 0)
			at := len(dst)
			dst = closeNested(sub.AppendProto(dst), at)
		}
		return closeNested(dst, at)
	}
	dst = appendText(dst, 1, f.Key, false)
	if f.Kind.hasText() {
		dst = appendText(dst, 2, f.Text, false)
	} else {
		dst = appendNumber(dst, 2, uint64(f.Num))
	}
	return closeNested(dst, at)
}

// decodeFilter reads message Filter.
func decodeFilter(b []byte, depth int) (*Filter, error) {
	if depth > maxFilterDepth {
		return nil, errFilterDepth
	}
	f := &Filter{}
	err := eachField(b, func(num protowire.Number, _ uint64, data []byte) (err error) {
		switch {
		case data == nil:
		case num == protowire.Number(Bool):
			f, err = decodeBool(data, depth)
		case num <= protowire.Number(IPv4Range):
			f, err = decodeTerm(FilterKind(num), data)
		default: // ignoring it would answer another question
			err = fmt.Errorf("unknown filter %d", num)
		}
		return err
	})
	return f, err
}

func decodeBool(b []byte, depth int) (*Filter, error) {
	f := &Filter{Kind: Bool}
	err := eachField(b, func(num protowire.Number, n uint64, data []byte) error {
		switch {
		case num == 1:
			if n > uint64(OpNot) {
				return fmt.Errorf("unknown operator %d of a filter", n)
			}
			f.Op = BoolOp(n)
		case num == 2 && data != nil:
			sub, err := decodeFilter(data, depth+1)
			f.Filters = append(f.Filters, sub)
			return err
		}
		return nil
	})
	return f, err
}

func decodeTerm(kind FilterKind, b []byte) (*Filter, error) {
	var key, value string
	var number int64
	err := eachField(b, func(num protowire.Number, n uint64, data []byte) error {
		switch {
		case num == 1 && data != nil:
			key = string(data)
		case num == 2 && data != nil:
			value = string(data)
		case num == 2:
			number = int64(n)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return newFilter(kind, key, value, number)
}

// AppendJSON appends the filter as public agents of the JSON protocol read it.
func (f *Filter) AppendJSON(dst []byte) []byte {
	dst = append(dst, '{')
	if f == nil || f.Kind == Everything {
		return append(dst, '}')
	}
	dst = append(appendName(dst, filterNames[f.Kind]), ':', '{')
	switch {
	case f.Kind == Bool:
		dst = append(dst, `"Op":`...)
		dst = strconv.AppendInt(dst, int64(f.Op), 10)
		dst = append(dst, `,"Filters":[`...)
		for i, sub := range f.Filters {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = sub.AppendJSON(dst)
		}
		dst = append(dst, ']')
	default:
		dst = field.AppendString(append(dst, `"Key":`...), f.Key)
		switch {
		case f.Kind.hasText():
			dst = field.AppendString(append(dst, `,"Value":`...), f.Text)
		case f.Kind == TermBool:
			dst = strconv.AppendBool(append(dst, `,"Value":`...), f.Num != 0)
		case f.Kind != Null:
			dst = strconv.AppendInt(append(dst, `,"Value":`...), f.Num, 10)
		}
	}
	return append(dst, '}', '}')
}

// readFilter reads a filter from JSON; null and {} hold for everything.
func readFilter(v field.Value, depth int) (*Filter, error) {
	if depth > maxFilterDepth {
		return nil, errFilterDepth
	}
	f := &Filter{}
	if v == nil {
		return f, nil
	}
	o, ok := v.(field.Object)
	if !ok {
		return nil, errors.New("filter is not an object")
	}
	for _, e := range o {
		kind, ok := indexOf(filterNames[:], e.Key)
		member, isObject := e.Value.(field.Object)
		switch {
		case !ok || e.Key == "":
			return nil, fmt.Errorf("unknown filter %q", e.Key)
		case e.Value == nil: // encoders without omission write all members
			continue
		case !isObject:
			return nil, fmt.Errorf("%s is not an object", e.Key)
		}
		var err error
		if FilterKind(kind) == Bool {
			f, err = readBool(member, depth)
		} else {
			f, err = readTerm(FilterKind(kind), member)
		}
		if err != nil {
			return nil, err
		}
	}
	return f, nil
}

func indexOf(names []string, name string) (int, bool) {
	for i := range names {
		if names[i] == name {
			return i, true
		}
	}
	return 0, false
}

func readBool(o field.Object, depth int) (*Filter, error) {
	f := &Filter{Kind: Bool}
	op, err := readEnum(o, "Op", opNames[:])
	if err != nil {
		return nil, err
	}
	f.Op = BoolOp(op)
	v, _ := o.Get("Filters")
	list, ok := v.(field.List)
	if v != nil && !ok {
		return nil, errors.New("Filters is not a list")
	}
	for _, item := range list {
		sub, err := readFilter(item, depth+1)
		if err != nil {
			return nil, err
		}
		f.Filters = append(f.Filters, sub)
	}
	return f, nil
}

// readEnum reads an enumeration, which comes as a number or a name, and may be left out when 0.
func readEnum(o field.Object, key string, names []string) (int, error) {
	v, _ := o.Get(key)
	switch v := v.(type) {
	case nil:
		return 0, nil
	case int64:
		if v >= 0 && v < int64(len(names)) {
			return int(v), nil
		}
	case string:
		if i, ok := indexOf(names, v); ok {
			return i, nil
		}
	}
	return 0, fmt.Errorf("unknown %s %v", key, v)
}

func readTerm(kind FilterKind, o field.Object) (*Filter, error) {
	v, _ := o.Get("Value")
	var text string
	var n int64
	switch v := v.(type) {
	case nil:
	case string:
		text = v
		if !kind.hasText() { // 64-bit integers are texts where they follow the JSON mapping of protobuf
			var err error
			if n, err = strconv.ParseInt(v, 10, 64); err != nil {
				return nil, fmt.Errorf("value of %s: %w", filterNames[kind], err)
			}
		}
	case int64:
		n = v
	case bool:
		if v {
			n = 1
		}
	default:
		return nil, fmt.Errorf("value of %s is a %T", filterNames[kind], v)
	}
	return newFilter(kind, o.Text("Key"), text, n)
}
