package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"

	"gopkg.in/yaml.v3"
)

// Files of the user are kept as nodes and not as values: numbers, dates, yes and no, and the tags of Ansible (!vault) come out as they went
// in, whichever version of YAML their writer had in mind.

const maxNodes = 200_000

// mapping is a YAML mapping; written, its keys are sorted.
type mapping map[string]*yaml.Node

// readYAML reads a file that holds one mapping, or nothing.
func readYAML(path string) (mapping, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	found, err := parseYAML(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return found, nil
}

func parseYAML(text []byte) (mapping, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, rest yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return mapping{}, nil
	} else if err != nil {
		return nil, fmt.Errorf("no YAML: %s", oneLine(strings.TrimPrefix(err.Error(), "yaml: ")))
	}
	if err := decoder.Decode(&rest); !errors.Is(err, io.EOF) {
		return nil, errors.New("holds more than one document")
	}
	if len(document.Content) != 1 {
		return mapping{}, nil
	}
	left := maxNodes
	node, err := plain(document.Content[0], &left)
	if err != nil {
		return nil, err
	}
	switch {
	case node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null":
		return mapping{}, nil
	case node.Kind != yaml.MappingNode:
		return nil, errors.New("holds no mapping of names to values")
	}
	return entries(node), nil
}

func entries(node *yaml.Node) mapping {
	found := mapping{}
	if node == nil || node.Kind != yaml.MappingNode {
		return found
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		found[node.Content[i].Value] = node.Content[i+1]
	}
	return found
}

func items(node *yaml.Node) []*yaml.Node {
	if node == nil || node.Kind != yaml.SequenceNode {
		return nil
	}
	return node.Content
}

func scalar(node *yaml.Node) string {
	if node == nil || node.Kind != yaml.ScalarNode || node.ShortTag() == "!!null" {
		return ""
	}
	return node.Value
}

// plain is a node without aliases, anchors, merge keys, comments and flow style, its keys sorted. left bounds what aliases make of it.
func plain(node *yaml.Node, left *int) (*yaml.Node, error) {
	if *left--; *left < 0 {
		return nil, fmt.Errorf("holds more than %d values", maxNodes)
	}
	switch node.Kind {
	case yaml.AliasNode:
		return plain(node.Alias, left)
	case yaml.ScalarNode:
		return &yaml.Node{Kind: node.Kind, Tag: node.Tag, Value: node.Value, Style: node.Style}, nil
	case yaml.SequenceNode:
		made := &yaml.Node{Kind: node.Kind, Tag: node.Tag, Style: node.Style & yaml.TaggedStyle}
		for _, item := range node.Content {
			item, err := plain(item, left)
			if err != nil {
				return nil, err
			}
			made.Content = append(made.Content, item)
		}
		return made, nil
	case yaml.MappingNode:
		return plainMapping(node, left)
	}
	return nil, errors.New("holds what is neither mapping, list nor value")
}

func plainMapping(node *yaml.Node, left *int) (*yaml.Node, error) {
	own, merged, names := mapping{}, mapping{}, map[string]*yaml.Node{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := node.Content[i]
		for name.Kind == yaml.AliasNode {
			name = name.Alias
		}
		value, err := plain(node.Content[i+1], left)
		switch {
		case err != nil:
			return nil, err
		case name.Kind != yaml.ScalarNode:
			return nil, fmt.Errorf("line %d: a name must be one word", node.Content[i].Line)
		case name.ShortTag() == "!!merge":
			sources := []*yaml.Node{value}
			if value.Kind == yaml.SequenceNode {
				sources = value.Content
			}
			for _, source := range sources {
				if source.Kind != yaml.MappingNode {
					return nil, fmt.Errorf("line %d: << wants a mapping", node.Content[i].Line)
				}
				for j := 0; j+1 < len(source.Content); j += 2 {
					if word := source.Content[j]; merged[word.Value] == nil {
						merged[word.Value], names[word.Value] = source.Content[j+1], word
					}
				}
			}
		default:
			own[name.Value] = value
			names[name.Value] = &yaml.Node{Kind: yaml.ScalarNode, Tag: name.Tag, Value: name.Value, Style: name.Style}
		}
	}
	for name, value := range own {
		merged[name] = value
	}
	made := merged.node()
	for i := 0; i < len(made.Content); i += 2 {
		made.Content[i] = names[made.Content[i].Value]
	}
	made.Tag, made.Style = node.Tag, node.Style&yaml.TaggedStyle
	return made, nil
}

// node has the entries in the order of their names.
func (m mapping) node() *yaml.Node {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	made := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, name := range names {
		made.Content = append(made.Content, word(name), m[name])
	}
	if len(names) == 0 {
		made.Style = yaml.FlowStyle
	}
	return made
}

// with has the entries of all, the later ones before the earlier.
func (m mapping) with(others ...mapping) mapping {
	made := mapping{}
	for _, each := range append([]mapping{m}, others...) {
		for name, value := range each {
			made[name] = value
		}
	}
	return made
}

func boolean(value bool) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: fmt.Sprint(value)}
}

func words(values ...string) *yaml.Node {
	made := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	for _, value := range values {
		made.Content = append(made.Content, word(value))
	}
	return made
}

// certain is the beginning of a text that no version of YAML takes for anything else, some words apart; or an IPv4 address, with a port.
var certain = regexp.MustCompile(`^([A-Za-z/]|\d+\.\d+\.\d+\.\d+(:\d+)?$)`)

// word is a text that every reader takes for a text: YAML 1.1, which Ansible reads, knows more numbers and truths than this library. What
// Ansible would take for a template is marked, for nobody of the undercloud or overcloud may run one here.
func word(value string) *yaml.Node {
	node := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
	switch strings.ToLower(value) {
	case "yes", "no", "on", "off", "true", "false", "null":
		node.Style = yaml.SingleQuotedStyle
	default:
		if !certain.MatchString(value) {
			node.Style = yaml.SingleQuotedStyle
		}
	}
	for _, r := range value {
		if r < ' ' || r == 0x7f || r > '~' {
			node.Style = yaml.DoubleQuotedStyle
		}
	}
	if strings.Contains(value, "{{") || strings.Contains(value, "{%") || strings.Contains(value, "{#") {
		node.Tag = "!unsafe"
		node.Style |= yaml.TaggedStyle
	}
	return node
}
