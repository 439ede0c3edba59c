package config

import (
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

const hidden = "********"

// Get returns a value for the API: of a key, of a section as nested maps, or
// of an entry of a free-form map. Case does not matter, except that in a map
// the exact spelling wins. Secrets are hidden. false: nothing has that name, or
// it is unset.
func (c *Config) Get(key string) (any, bool) {
	name := lower(key)
	if v, ok := c.values[name]; ok {
		return c.external(name, v), true
	}
	section := map[string]any{}
	for _, k := range c.order {
		if rest, ok := strings.CutPrefix(k, name+"."); ok {
			insert(section, strings.Split(rest, "."), c.external(k, c.values[k]))
		}
	}
	if len(section) > 0 {
		return section, true
	}
	for i := strings.LastIndexByte(name, '.'); i > 0; i = strings.LastIndexByte(name[:i], '.') {
		if v, ok := c.values[name[:i]]; ok {
			return entry(c.external(name[:i], v), key[i+1:])
		}
	}
	return nil, false
}

func insert(m map[string]any, path []string, v any) {
	for ; len(path) > 1; path = path[1:] {
		next, ok := m[path[0]].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[path[0]] = next
		}
		m = next
	}
	m[path[0]] = v
}

// entry looks a dotted path up in nested maps whose keys may hold dots.
func entry(v any, path string) (any, bool) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, false
	}
	for _, same := range []func(a, b string) bool{func(a, b string) bool { return a == b }, strings.EqualFold} {
		for k, item := range m {
			if same(k, path) {
				return item, true
			}
		}
		for k, item := range m {
			if len(path) > len(k) && path[len(k)] == '.' && same(k, path[:len(k)]) {
				if found, ok := entry(item, path[len(k)+1:]); ok {
					return found, true
				}
			}
		}
	}
	return nil, false
}

// external returns a value in types that JSON and YAML know, secrets hidden.
func (c *Config) external(name string, v value) any {
	key, _ := schema.key(name)
	return export(v.v, key.Secret)
}

func export(v any, secret bool) any {
	switch t := v.(type) {
	case string:
		if secret && t != "" {
			return hidden
		}
		return hidePassword(t)
	case Size:
		return t.String()
	case time.Duration:
		if t%time.Second == 0 {
			return int64(t / time.Second)
		}
		return t.String()
	case Address:
		return t.String()
	case []Address:
		out := make([]string, len(t))
		for i, a := range t {
			out[i] = a.String()
		}
		return out
	case []string:
		out := make([]string, len(t))
		for i, s := range t {
			out[i] = hidePassword(s)
		}
		return out
	case map[string]string:
		out := make(map[string]any, len(t))
		for k, s := range t {
			out[k] = export(s, secret)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(t))
		for k, item := range t {
			out[k] = export(item, secret)
		}
		return out
	case []any:
		out := make([]any, len(t))
		for i, item := range t {
			out[i] = export(item, secret)
		}
		return out
	}
	if secret && v != nil {
		return hidden
	}
	return v
}

// hidePassword takes the password out of a URL.
func hidePassword(s string) string {
	if !strings.Contains(s, "://") || !strings.Contains(s, "@") {
		return s
	}
	u, err := url.Parse(s)
	if err != nil {
		return hidden
	}
	if _, has := u.User.Password(); !has {
		return s
	}
	return u.Redacted()
}

// Dump writes what is in force as YAML, each value that is no default with its
// source. Secrets are hidden, so that the text can be shown to others.
func (c *Config) Dump(w io.Writer) error {
	root := &yaml.Node{Kind: yaml.MappingNode}
	for _, name := range c.order {
		v := c.values[name]
		if key, _ := schema.key(name); key.Status != Active && v.source == "" {
			continue
		}
		node := &yaml.Node{}
		if err := node.Encode(c.external(name, v)); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		path := strings.Split(name, ".")
		at := root
		for _, word := range path[:len(path)-1] {
			at = child(at, word)
		}
		label := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: path[len(path)-1]}
		if v.source != "" && len(node.Content) == 0 {
			node.LineComment = "# " + v.source
		} else if v.source != "" {
			label.HeadComment = "# " + v.source
		}
		at.Content = append(at.Content, label, node)
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(root); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return enc.Close()
}

// child returns the mapping under a word, made when it is not there.
func child(n *yaml.Node, word string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == word {
			return n.Content[i+1]
		}
	}
	m := &yaml.Node{Kind: yaml.MappingNode}
	n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: word}, m)
	return m
}
