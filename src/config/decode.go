package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// value is a key's value after decoding: string, bool, int64, time.Duration, Size,
// Address, []Address, []string, map[string]any, map[string]string or []any.
type value struct {
	v      any
	source string // where it was given; "" for a default
}

// build decodes every key and fills the struct.
func (l *loader) build() *Config {
	c := &Config{values: map[string]value{}}
	for _, k := range schema.keys {
		for _, key := range l.instances(k) {
			r, given := l.viper.Get(key.Name).(*raw)
			if !given {
				if r = l.defaultOf(key); r == nil {
					continue
				}
			}
			if v, ok := l.decode(key, r); ok {
				c.values[key.Name] = value{v, r.at(nil)}
				c.order = append(c.order, key.Name)
			}
			if given && key.Status != Active {
				l.report(Notice, r.at(nil), key.Name, "%s: %s", key.Name, key.Status)
			}
		}
	}
	c.fill(reflect.ValueOf(c).Elem(), "", l.names)
	for key, name := range map[string]*string{"host_id": &c.HostID, "etcd.name": &c.Etcd.Name} {
		if *name == "" {
			*name = l.hostname
			c.values[key] = value{v: l.hostname}
		}
	}
	return c
}

// instances returns the key itself or, below a named section, one for each.
func (l *loader) instances(k Key) []Key {
	top, field, named := strings.Cut(k.Name, "."+anyName+".")
	if !named {
		return []Key{k}
	}
	var keys []Key
	for _, name := range slices.Sorted(maps.Keys(l.names[top])) {
		instance := k
		instance.Name = join(top, join(name, field))
		if p := predefined[top]; p.field == field && slices.Contains(p.names, name) {
			instance.Default, instance.hasDefault = name, true
		}
		keys = append(keys, instance)
	}
	return keys
}

// defaultOf returns the default of a key, nil when it has none. Keys of later
// versions below a named section have none: they belong to some types only.
func (l *loader) defaultOf(k Key) *raw {
	switch {
	case !k.hasDefault || k.Status != Active && schema.generic(k.Name) != k.Name:
		return nil
	case k.Default == "$hostname":
		return &raw{text: l.hostname}
	case k.Kind == List || k.Kind == Map || k.Kind == StringMap || k.Kind == Objects:
		return &raw{node: parseDefault(k.Default)}
	}
	return &raw{text: k.Default}
}

func parseDefault(text string) *yaml.Node {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) == 0 {
		panic("config: broken default " + text)
	}
	return doc.Content[0]
}

// decode turns a raw value into that of its kind; what is wrong is reported.
func (l *loader) decode(k Key, r *raw) (any, bool) {
	var v any
	var part *yaml.Node // what is wrong, when it is not the whole
	var err error
	if r.node != nil {
		v, part, err = fromNode(k, r.node)
	} else {
		v, err = fromText(k, r.text)
	}
	if err != nil {
		l.report(Error, r.at(part), k.Name, "%v", err)
		return nil, false
	}
	return v, true
}

// invalid is the error of a value that its key does not accept.
func invalid(k Key, value, format string, args ...any) error {
	if k.Secret {
		value = "…"
	}
	return fmt.Errorf("invalid value for %s (%s): %s", k.Name, value, fmt.Sprintf(format, args...))
}

func fromNode(k Key, n *yaml.Node) (any, *yaml.Node, error) {
	switch k.Kind {
	case Map, Objects:
		v, err := plain(n)
		if err != nil {
			return nil, err.node, fmt.Errorf("%s: %s", k.Name, err.message)
		}
		v, wrong := shape(k, v)
		return v, nil, wrong
	case StringMap:
		if n.Kind != yaml.MappingNode {
			return nil, nil, fmt.Errorf("%s: want a map, not %s", k.Name, describe(n))
		}
		pairs, err := pairsFrom(n, exactly)
		if err != nil {
			return nil, err.node, fmt.Errorf("%s: %s", k.Name, err.message)
		}
		m := make(map[string]string, len(pairs))
		for _, p := range pairs {
			if p.value.Kind != yaml.ScalarNode || isNull(p.value) {
				return nil, p.value, fmt.Errorf("%s: want a text for %q", k.Name, p.key.Value)
			}
			m[p.key.Value] = p.value.Value
		}
		return m, nil, nil
	case List, Addresses:
		if n.Kind != yaml.SequenceNode {
			break // a scalar: blanks separate, as in the environment
		}
		items := make([]string, 0, len(n.Content))
		for _, item := range n.Content {
			if item = resolve(item); item.Kind != yaml.ScalarNode || isNull(item) {
				return nil, item, fmt.Errorf("%s: want a list of texts: %s is none", k.Name, describe(item))
			}
			if _, err := fromItems(k, []string{item.Value}); err != nil {
				return nil, item, err
			}
			items = append(items, item.Value)
		}
		v, err := fromItems(k, items)
		return v, nil, err
	}
	if n.Kind != yaml.ScalarNode {
		return nil, nil, fmt.Errorf("%s: want %s, not %s", k.Name, article(k.Kind), describe(n))
	}
	v, err := fromText(k, n.Value)
	return v, nil, err
}

func article(k Kind) string {
	switch k {
	case AddressKind:
		return "an address"
	case Bool:
		return "true or false"
	}
	return "a " + k.String()
}

// fromText reads what the environment, a flag or a YAML scalar says.
func fromText(k Key, text string) (any, error) {
	switch k.Kind {
	case String:
		return oneOf(k, text)
	case Bool:
		switch lower(text) {
		case "yes", "on":
			return true, nil
		case "no", "off":
			return false, nil
		}
		b, err := strconv.ParseBool(text)
		if err != nil {
			return nil, invalid(k, text, "want true or false")
		}
		return b, nil
	case Int:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n != int64(int(n)) {
			return nil, invalid(k, text, "want a whole number")
		}
		return n, atLeast(k, text, n)
	case Seconds:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			if n > math.MaxInt64/int64(time.Second) {
				return nil, invalid(k, text, "too large")
			}
			return time.Duration(n) * time.Second, atLeast(k, text, n)
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			return nil, invalid(k, text, "want whole seconds, or a duration such as 90s")
		}
		if d < 0 || d == 0 && k.Min > 0 {
			return nil, invalid(k, text, "want more than nothing")
		}
		return d, nil
	case SizeKind:
		n, err := parseSize(text)
		if err != nil {
			return nil, invalid(k, text, "%v", err)
		}
		return n, atLeast(k, text, int64(n))
	case AddressKind:
		a, err := ParseAddress(text)
		if err != nil {
			return nil, fmt.Errorf("invalid value for %s (%s): %w", k.Name, text, err)
		}
		return a, nil
	case List, Addresses:
		return fromItems(k, strings.Fields(text))
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(text)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, invalid(k, text, "want JSON: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, invalid(k, text, "want one JSON value")
	}
	return shape(k, fromJSON(v))
}

// fromItems reads the items of a list.
func fromItems(k Key, items []string) (any, error) {
	if k.Kind == Addresses {
		addresses := make([]Address, 0, len(items))
		for _, item := range items {
			a, err := ParseAddress(item)
			if err != nil {
				return nil, fmt.Errorf("invalid value for %s (%s): %w", k.Name, item, err)
			}
			addresses = append(addresses, a)
		}
		return addresses, nil
	}
	out := make([]string, 0, len(items))
	for _, item := range items {
		word, err := oneOf(k, item)
		if err != nil {
			return nil, err
		}
		out = append(out, word)
	}
	return out, nil
}

// oneOf returns the listed spelling of a word.
func oneOf(k Key, word string) (string, error) {
	if k.OneOf == nil {
		return word, nil
	}
	for _, known := range k.OneOf {
		if strings.EqualFold(word, known) {
			return known, nil
		}
	}
	switch k.Name { // texts that scripts know
	case "flow.protocol":
		return "", fmt.Errorf("Invalid protocol: %s (%s)", word, k.Name)
	case "logging.backends":
		return "", fmt.Errorf("Invalid logging backend: %s", word)
	}
	words := slices.DeleteFunc(slices.Clone(k.OneOf), func(w string) bool { return w == "" })
	return "", invalid(k, word, "want %s", strings.Join(words, " or "))
}

func atLeast(k Key, text string, n int64) error {
	if n < k.Min {
		return invalid(k, text, "want at least %d", k.Min)
	}
	return nil
}

// shape checks that a free-form value is a map, or a list of maps.
func shape(k Key, v any) (any, error) {
	switch k.Kind {
	case Objects:
		list, ok := v.([]any)
		for _, item := range list {
			_, isMap := item.(map[string]any)
			ok = ok && isMap
		}
		if !ok {
			return nil, fmt.Errorf("%s: want a list of maps", k.Name)
		}
	case StringMap:
		m, ok := v.(map[string]any)
		out := make(map[string]string, len(m))
		for key, item := range m {
			switch item.(type) {
			case string, int64, float64, bool:
			default:
				ok = false
			}
			out[key] = fmt.Sprint(item)
		}
		if !ok {
			return nil, fmt.Errorf("%s: want a map of texts", k.Name)
		}
		return out, nil
	default:
		if _, ok := v.(map[string]any); !ok {
			return nil, fmt.Errorf("%s: want a map", k.Name)
		}
	}
	return v, nil
}

// fromJSON gives numbers their Go types.
func fromJSON(v any) any {
	switch t := v.(type) {
	case map[string]any:
		for key, item := range t {
			t[key] = fromJSON(item)
		}
	case []any:
		for i, item := range t {
			t[i] = fromJSON(item)
		}
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return n
		}
		if f, err := t.Float64(); err == nil {
			return f
		}
		return t.String()
	}
	return v
}

// fill copies the decoded values into the struct.
func (c *Config) fill(v reflect.Value, prefix string, names map[string]map[string]bool) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		if f.Anonymous {
			c.fill(v.Field(i), prefix, names)
			continue
		}
		name := join(prefix, fieldName(f))
		switch _, leaf := kindOf(f.Type); {
		case leaf:
			if value, ok := c.values[name]; ok {
				v.Field(i).Set(reflect.ValueOf(value.v).Convert(f.Type))
			}
		case f.Type.Kind() == reflect.Map:
			m := reflect.MakeMap(f.Type)
			for section := range names[name] {
				item := reflect.New(f.Type.Elem()).Elem()
				c.fill(item, join(name, section), names)
				m.SetMapIndex(reflect.ValueOf(section), item)
			}
			v.Field(i).Set(m)
		default:
			c.fill(v.Field(i), name, names)
		}
	}
}
