package ovs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// UUID identifies a row.
type UUID string

// NamedUUID stands in a transaction for the UUID of a row that the same transaction inserts under that name.
type NamedUUID string

// Row is the columns of a row. Values are string, int64, float64, bool, UUID, []any (a set) or map[string]any; a server may write a
// set of one as the value alone and leave out columns that hold their default, which the methods make no difference of.
type Row map[string]any

// UnmarshalJSON reads the notation of OVSDB. Values in no known notation stay as JSON has them.
func (r *Row) UnmarshalJSON(data []byte) error {
	var columns map[string]any
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&columns); err != nil {
		return err
	}
	for name, v := range columns {
		columns[name] = decode(v)
	}
	*r = columns
	return nil
}

// decode turns a value as JSON has it into one of ours.
func decode(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil {
			return string(v)
		}
		return f
	case []any:
		if len(v) != 2 {
			return v
		}
		kind, _ := v[0].(string)
		switch content := v[1].(type) {
		case string:
			switch kind {
			case "uuid":
				return UUID(content)
			case "named-uuid":
				return NamedUUID(content)
			}
		case []any:
			switch kind {
			case "set":
				for i := range content {
					content[i] = decode(content[i])
				}
				return content
			case "map":
				return decodeMap(content)
			}
		}
	}
	return v
}

func decodeMap(pairs []any) any {
	m := make(map[string]any, len(pairs))
	for _, p := range pairs {
		if pair, ok := p.([]any); ok && len(pair) == 2 {
			m[text(decode(pair[0]))] = decode(pair[1])
		}
	}
	return m
}

// encode is the reverse of decode, for what programs give.
func encode(v any) any {
	switch v := v.(type) {
	case UUID:
		return [2]any{"uuid", string(v)}
	case NamedUUID:
		return [2]any{"named-uuid", string(v)}
	case []any:
		return encodeSet(v)
	case []string:
		return encodeSet(v)
	case []int64:
		return encodeSet(v)
	case []UUID:
		return encodeSet(v)
	case map[string]string:
		return encodeMap(v)
	case map[string]any:
		return encodeMap(v)
	case Row:
		columns := make(map[string]any, len(v))
		for name, value := range v {
			columns[name] = encode(value)
		}
		return columns
	}
	return v
}

func encodeSet[T any](items []T) any {
	set := make([]any, len(items))
	for i, item := range items {
		set[i] = encode(item)
	}
	return [2]any{"set", set}
}

func encodeMap[T any](m map[string]T) any {
	pairs := make([]any, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, [2]any{key, encode(m[key])})
	}
	return [2]any{"map", pairs}
}

// text writes an atom.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case UUID:
		return string(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case nil:
		return ""
	}
	return fmt.Sprint(v)
}

// set returns the items of a column.
func (r Row) set(column string) []any {
	switch v := r[column].(type) {
	case nil:
		return nil
	case []any:
		return v
	default:
		return []any{v}
	}
}

// atom returns the only value of a column; nil when there is none, or several.
func (r Row) atom(column string) any {
	if set := r.set(column); len(set) == 1 {
		return set[0]
	}
	return nil
}

// Text returns a column as text, "" when it is empty.
func (r Row) Text(column string) string { return text(r.atom(column)) }

// Int returns a column that holds one integer.
func (r Row) Int(column string) (int64, bool) {
	n, ok := r.atom(column).(int64)
	return n, ok
}

// Bool returns a column that holds one truth value.
func (r Row) Bool(column string) (value, ok bool) {
	value, ok = r.atom(column).(bool)
	return value, ok
}

// Strings returns the items of a set as texts, in order.
func (r Row) Strings(column string) []string {
	var all []string
	for _, item := range r.set(column) {
		all = append(all, text(item))
	}
	slices.Sort(all)
	return all
}

// Ints returns the integers of a set, in order.
func (r Row) Ints(column string) []int64 {
	var all []int64
	for _, item := range r.set(column) {
		if n, ok := item.(int64); ok {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}

// UUIDs returns the references of a column.
func (r Row) UUIDs(column string) []UUID {
	var all []UUID
	for _, item := range r.set(column) {
		if id, ok := item.(UUID); ok {
			all = append(all, id)
		}
	}
	return all
}

// Map returns a map of texts; other values are written as text.
func (r Row) Map(column string) map[string]string {
	m, _ := r[column].(map[string]any)
	all := make(map[string]string, len(m))
	for key, v := range m {
		all[key] = text(v)
	}
	return all
}

// MapInt returns an integer of a map, such as one of the statistics.
func (r Row) MapInt(column, key string) (int64, bool) {
	m, _ := r[column].(map[string]any)
	n, ok := m[key].(int64)
	return n, ok
}

// MapText returns a text of a map, "" when it has no such key.
func (r Row) MapText(column, key string) string {
	m, _ := r[column].(map[string]any)
	return text(m[key])
}
