package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxNodes bounds the nodes of a document, each alias counted as what it
// stands for: a few lines of aliases can stand for billions.
const maxNodes = 100_000

// nodeError is something wrong with the shape of a document.
type nodeError struct {
	node    *yaml.Node
	message string
}

func (e *nodeError) Error() string { return e.message }

// parseYAML reads one document; root is nil when it is empty. On an error, at
// is its "line:column".
func parseYAML(data []byte) (root *yaml.Node, at string, err error) {
	var doc, second yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	err = dec.Decode(&doc)
	if err == nil {
		if more := dec.Decode(&second); more == nil {
			return nil, strings.TrimPrefix(position("", &second), ":"), errors.New("a second YAML document begins here: only one is read")
		} else if !errors.Is(more, io.EOF) {
			err = more
		}
	}
	if errors.Is(err, io.EOF) {
		return nil, "", nil
	}
	if err != nil {
		line, column := syntaxErrorAt(data, err)
		return nil, fmt.Sprintf("%d:%d", line, column), errors.New(describeSyntax(err))
	}
	root = resolve(doc.Content[0])
	if isNull(root) {
		return nil, "", nil
	}
	if n := tooLarge(root, map[*yaml.Node]int{}); n != nil {
		return nil, strings.TrimPrefix(position("", n), ":"), errors.New("aliases that contain themselves, or too many of them")
	}
	if root.Kind != yaml.MappingNode {
		return nil, strings.TrimPrefix(position("", root), ":"), fmt.Errorf("want a mapping of keys, not %s", describe(root))
	}
	return root, "", nil
}

// describeSyntax drops the line that the parser gives: it is often that of the
// construct's beginning, or one too small.
func describeSyntax(err error) string {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	if line, rest, ok := strings.Cut(message, ": "); ok && strings.HasPrefix(line, "line ") {
		message = rest
	}
	return "YAML syntax: " + message
}

// syntaxErrorAt finds where a broken document stops being one: right after the
// longest beginning of it that still parses, first by lines, then by bytes.
func syntaxErrorAt(data []byte, err error) (line, column int) {
	lines := bytes.SplitAfter(data, []byte("\n"))
	if len(lines)*len(data) > 50<<20 { // the search would take seconds: be content with the parser's line
		fmt.Sscanf(err.Error(), "yaml: line %d:", &line)
		return max(1, line), 1
	}
	good, end := len(lines), len(data)
	for end > 0 {
		good--
		if end -= len(lines[good]); parses(data[:end]) {
			break
		}
	}
	broken := lines[good]
	for n := min(len(broken), 500) - 1; n > 0; n-- {
		if parses(data[:end+n]) {
			return good + 1, n + 1
		}
	}
	return good + 1, 1
}

func parses(data []byte) bool {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var n yaml.Node
		if err := dec.Decode(&n); err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// tooLarge returns the node whose aliases make a document endless or huge, nil
// when there is none. sizes remembers finished nodes; -1 marks an open one.
func tooLarge(n *yaml.Node, sizes map[*yaml.Node]int) *yaml.Node {
	if sizes[n] > 0 {
		return nil
	}
	sizes[n] = -1
	size := 1
	children := n.Content
	if n.Kind == yaml.AliasNode {
		children = []*yaml.Node{n.Alias}
	}
	for _, child := range children {
		if sizes[child] < 0 {
			return n
		}
		if bad := tooLarge(child, sizes); bad != nil {
			return bad
		}
		if size += sizes[child]; size > maxNodes {
			return n
		}
	}
	sizes[n] = size
	return nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// describe names what a node is, for messages. A value itself is not shown: it may be a password in the wrong place.
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	}
	return "a single value"
}

type pair struct{ key, value *yaml.Node }

// pairsOf returns the entries of a mapping, those of merge keys ("<<") last
// and only where they are not overridden. Keys differ by more than case.
func pairsOf(n *yaml.Node) ([]pair, *nodeError) { return pairsFrom(n, lower) }

func pairsFrom(n *yaml.Node, fold func(string) string) ([]pair, *nodeError) {
	var own, merged []pair
	seen := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), resolve(n.Content[i+1])
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			sources := []*yaml.Node{value}
			if value.Kind == yaml.SequenceNode {
				sources = value.Content
			}
			for _, source := range sources {
				if source = resolve(source); source.Kind != yaml.MappingNode {
					return nil, &nodeError{n.Content[i], "<< wants a mapping"}
				}
				inner, err := pairsFrom(source, fold)
				if err != nil {
					return nil, err
				}
				merged = append(merged, inner...)
			}
			continue
		}
		if key.Kind != yaml.ScalarNode {
			return nil, &nodeError{n.Content[i], "a key must be a word, not " + describe(key)}
		}
		if first := seen[fold(key.Value)]; first != nil {
			return nil, &nodeError{n.Content[i], fmt.Sprintf("key %s is already given in line %d", key.Value, first.Line)}
		}
		seen[fold(key.Value)] = n.Content[i]
		own = append(own, pair{key, value})
	}
	for _, p := range merged {
		if seen[fold(p.key.Value)] == nil {
			seen[fold(p.key.Value)] = p.key
			own = append(own, p)
		}
	}
	return own, nil
}

// lower folds ASCII letters, as keys are; it keeps the length.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

func exactly(s string) string { return s }

// plain turns a node into Go values: map[string]any, []any, string, int64,
// float64, bool, nil. Text that YAML might take for a date stays text.
func plain(n *yaml.Node) (any, *nodeError) {
	n = resolve(n)
	switch n.Kind {
	case yaml.MappingNode:
		pairs, err := pairsFrom(n, exactly)
		if err != nil {
			return nil, err
		}
		m := make(map[string]any, len(pairs))
		for _, p := range pairs {
			if m[p.key.Value], err = plain(p.value); err != nil {
				return nil, err
			}
		}
		return m, nil
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, item := range n.Content {
			v, err := plain(item)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	}
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		if n.Decode(&b) == nil {
			return b, nil
		}
	case "!!int":
		var i int64
		if n.Decode(&i) == nil {
			return i, nil
		}
	case "!!float":
		var f float64
		if n.Decode(&f) == nil && f-f == 0 { // neither infinite nor NaN: JSON has no word for those
			return f, nil
		}
	}
	return n.Value, nil
}

// mergeMaps lays the mapping over above that under; below that, mappings in
// both are merged and anything else is replaced. Neither is changed.
func mergeMaps(under, over *yaml.Node) *yaml.Node {
	under, over = resolve(under), resolve(over)
	if under.Kind != yaml.MappingNode || over.Kind != yaml.MappingNode {
		return over
	}
	low, err := pairsFrom(under, exactly)
	if err != nil {
		return over // reported when the value is read
	}
	high, err := pairsFrom(over, exactly)
	if err != nil {
		return over
	}
	out := *over
	out.Content = nil
	given := map[string]*yaml.Node{}
	for _, p := range high {
		given[p.key.Value] = p.value
	}
	for _, p := range low {
		if v := given[p.key.Value]; v != nil {
			p.value = mergeMaps(p.value, v)
			delete(given, p.key.Value)
		}
		out.Content = append(out.Content, p.key, p.value)
	}
	for _, p := range high {
		if given[p.key.Value] != nil {
			out.Content = append(out.Content, p.key, p.value)
		}
	}
	return &out
}

// nest builds the mapping that a dotted key means.
func nest(words []string, key, value *yaml.Node) *yaml.Node {
	for i := len(words) - 1; i >= 0; i-- {
		k := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: words[i], Line: key.Line, Column: key.Column}
		value = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Content: []*yaml.Node{k, value}, Line: key.Line, Column: key.Column}
	}
	return value
}

// leaves lists the dotted names below an unknown key; aliases are not followed.
func leaves(name string, n *yaml.Node) []string {
	if n.Kind != yaml.MappingNode {
		return []string{name}
	}
	var out []string
	for i := 0; i+1 < len(n.Content); i += 2 {
		out = append(out, leaves(join(name, lower(n.Content[i].Value)), n.Content[i+1])...)
	}
	return out
}
