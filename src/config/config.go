// Package config reads YAML files, environment variables and flags into typed
// sections, and knows every key: its default, its name in the environment,
// what it means. It says what is wrong and where, to the line and column.
//
// It refuses to act on what it reads: it opens no socket, follows no include,
// asks no server, and imports no other package of Skydive. Sections are passed
// to constructors by value and are not re-read.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/viper"
	"gopkg.in/yaml.v3"
)

// DefaultPath is the file used when none is named, if it is there.
const DefaultPath = "/etc/skydive/skydive.yml"

// maxFile bounds a configuration file, in bytes, so that a device named by
// mistake ends in a message.
const maxFile = 4 << 20

// Options say where configuration comes from. The strongest source of a key
// wins: flag, environment, last file to first file, default. Maps of several
// files are merged; anything else is replaced.
type Options struct {
	Backend     string            // "" or "file"
	Files       []string          // "-" is Stdin
	Stdin       io.Reader         // read when Files has "-"
	Environ     []string          // "KEY=value" as os.Environ gives; nil: the environment has no say
	Flags       map[string]string // explicitly given flags: key → text
	DefaultPath string            // read when Files is empty; it may be absent, but not broken
	Hostname    string            // default of host_id and etcd.name; "" asks the kernel
	// Checks tell, by key, what is wrong with a value beyond what this package knows. Services that read the key refuse to start with it.
	Checks map[string]func(*Config) error
}

// Load reads a configuration. The problems that it returns are notices and
// unknown keys, to be logged once each; the error is of type Errors and has a
// position in every line.
func Load(o Options) (*Config, []Problem, error) {
	c, problems := load(o)
	problems, errs := split(problems, func(s Severity) bool { return s == Error })
	if len(errs) > 0 {
		return nil, problems, errs
	}
	return c, problems, nil
}

// Check reads files alone – neither environment nor default path – and returns
// everything that is wrong with them, refusals of both services included.
func Check(o Options) []Problem {
	c, problems := load(Options{Files: o.Files, Stdin: o.Stdin, Checks: o.Checks})
	if _, errs := split(problems, func(s Severity) bool { return s == Error }); len(errs) == 0 {
		problems = append(problems, c.refusals("analyzer", "agent")...)
	}
	return problems
}

// loader collects the raw values of one Load. viper holds them by strength; its
// keys are whole dotted names, so a variable named like a section hides nothing.
type loader struct {
	viper    *viper.Viper
	hostname string
	names    map[string]map[string]bool // "auth" → names of its sections
	old      map[string]*raw            // renamed keys that were given
	problems []Problem
}

// raw is a value before its kind is known: a YAML node or text.
type raw struct {
	node   *yaml.Node
	text   string
	source string // name of file, variable or flag; "" for a default
}

// at returns where a value, or a part of it, was written.
func (r *raw) at(part *yaml.Node) string {
	if part == nil {
		part = r.node
	}
	if part == nil || r.source == "" {
		return r.source
	}
	return position(r.source, part)
}

func position(file string, n *yaml.Node) string {
	return fmt.Sprintf("%s:%d:%d", file, max(1, n.Line), max(1, n.Column))
}

// predefined are the sections that exist from the start; the name of each is
// also its type or driver.
var predefined = map[string]struct {
	field string
	names []string
}{
	"auth":    {"type", []string{"noauth", "basic", "keystone"}},
	"storage": {"driver", []string{"disk", "memory", "elasticsearch", "orientdb"}},
}

func load(o Options) (*Config, []Problem) {
	l := &loader{
		viper:    viper.NewWithOptions(viper.KeyDelimiter("\x00")),
		hostname: o.Hostname,
		names:    map[string]map[string]bool{},
		old:      map[string]*raw{},
	}
	if l.hostname == "" {
		l.hostname, _ = os.Hostname() // fails on no Linux; an empty host_id is refused below
	}
	for top, p := range predefined {
		l.names[top] = map[string]bool{}
		for _, name := range p.names {
			l.names[top][name] = true
		}
	}
	switch o.Backend {
	case "", "file":
		l.readFiles(o)
	case "etcd":
		l.report(Error, "", "", "configuration from etcd is not in this version: use -b file")
	default:
		l.report(Error, "", "", "Invalid backend: %s", o.Backend)
	}
	l.readEnviron(o.Environ)
	for key, text := range o.Flags {
		l.viper.Set(key, &raw{text: text, source: "flag --" + lastWord(key)})
	}
	l.applyRenames()
	c := l.build()
	c.checks = o.Checks
	return c, l.problems
}

func lastWord(key string) string {
	return strings.ReplaceAll(key[strings.LastIndexByte(key, '.')+1:], "_", "-")
}

func (l *loader) readFiles(o Options) {
	files, optional := o.Files, false
	if len(files) == 0 && o.DefaultPath != "" {
		files, optional = []string{o.DefaultPath}, true
	}
	for _, file := range files {
		data, name, err := readFile(file, o.Stdin)
		if optional && errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			l.report(Error, "", "", "%v", err)
			continue
		}
		root, at, err := parseYAML(data)
		if err != nil {
			l.report(Error, name+":"+at, "", "%v", err)
			continue
		}
		if root == nil {
			continue
		}
		layer := map[string]any{}
		l.walk(name, "", root, layer)
		l.merge(layer)
	}
}

func readFile(file string, stdin io.Reader) (data []byte, name string, err error) {
	in, name := stdin, "stdin"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, "", fmt.Errorf("read configuration: %w", err)
		}
		defer f.Close()
		in, name = f, file
	}
	if in == nil {
		in = strings.NewReader("")
	}
	data, err = io.ReadAll(io.LimitReader(in, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	if err != nil {
		return nil, "", fmt.Errorf("read configuration %s: %w", name, err)
	}
	return data, name, nil
}

// merge puts a layer of raw values above the earlier ones.
func (l *loader) merge(layer map[string]any) {
	// The only error is that a value cannot be merged, which opaque pointers rule out.
	_ = l.viper.MergeConfigMap(layer)
}

// walk collects the keys of a mapping. A key may be nested or dotted.
func (l *loader) walk(file, prefix string, node *yaml.Node, layer map[string]any) {
	pairs, err := pairsOf(node)
	if err != nil {
		l.report(Error, position(file, err.node), prefix, "%s", err.message)
		return
	}
	for _, p := range pairs {
		name := join(prefix, lower(p.key.Value))
		value := resolve(p.value)
		r := &raw{node: value, source: file}
		_, renamed := schema.renamed[name]
		key, known := schema.key(name)
		switch {
		case renamed:
			if !isNull(value) {
				l.old[name] = r
			}
		case known:
			l.collect(key, r, layer)
		case schema.isSection(name):
			switch {
			case value.Kind == yaml.MappingNode:
				l.name(name)
				l.walk(file, name, value, layer)
			case isNull(value):
				l.name(name)
			default:
				l.report(Error, position(file, value), name, "%s is a section: want a mapping of keys, not %s", name, describe(value))
			}
		default:
			if key, ok := mapAbove(name); ok {
				rest := p.key.Value[len(p.key.Value)-(len(name)-len(key.Name)-1):]
				r.node = nest(strings.Split(rest, "."), p.key, value)
				l.collect(key, r, layer)
				continue
			}
			hint := schema.hint(name)
			for _, leaf := range leaves(name, value) {
				if hint == "" {
					hint = schema.hint(leaf)
				}
			}
			if hint != "" {
				hint = "; did you mean " + hint + "?"
			}
			l.report(Unknown, position(file, p.key), name, "unknown key %s%s", name, hint)
		}
	}
}

// collect adds a leaf to a layer. A null value is no value.
func (l *loader) collect(key Key, r *raw, layer map[string]any) {
	if isNull(r.node) {
		return
	}
	if i := strings.LastIndexByte(key.Name, '.'); i > 0 {
		l.name(key.Name[:i])
	}
	if key.Kind == Map || key.Kind == StringMap {
		before, ok := layer[key.Name].(*raw)
		if !ok {
			before, _ = l.viper.Get(key.Name).(*raw)
		}
		if before != nil && before.node != nil {
			r.node = mergeMaps(before.node, r.node)
		}
	}
	layer[key.Name] = r
}

// name notes that a named section exists.
func (l *loader) name(section string) {
	parts := strings.Split(section, ".")
	if names, ok := l.names[parts[0]]; ok && len(parts) > 1 {
		names[parts[1]] = true
	}
}

// mapAbove finds the free-form map that a dotted name leads into.
func mapAbove(name string) (Key, bool) {
	for i := strings.LastIndexByte(name, '.'); i > 0; i = strings.LastIndexByte(name[:i], '.') {
		if key, ok := schema.key(name[:i]); ok {
			return key, key.Kind == Map || key.Kind == StringMap
		}
	}
	return Key{}, false
}

// readEnviron takes SKYDIVE_… variables. An empty one is as good as none.
func (l *loader) readEnviron(environ []string) {
	env := map[string]string{}
	for _, e := range environ {
		if k, v, ok := strings.Cut(e, "="); ok && v != "" && strings.HasPrefix(k, "SKYDIVE_") {
			env[k] = v
		}
	}
	layer := map[string]any{}
	take := func(key, variable string) {
		if text, ok := env[variable]; ok {
			layer[key] = &raw{text: text, source: "environment variable " + variable}
		}
	}
	for _, k := range schema.keys {
		if !strings.Contains(k.Name, anyName) {
			take(k.Name, k.Env())
		}
	}
	for old := range schema.renamed {
		if text, ok := env[envName(old)]; ok {
			l.old[old] = &raw{text: text, source: "environment variable " + envName(old)}
		}
	}
	for variable := range env {
		if key := l.namedKey(variable); key != "" {
			take(key, variable)
		}
	}
	l.merge(layer)
}

// namedKey finds the key below a named section that a variable means: its
// section is one that exists, or else is named by the variable.
func (l *loader) namedKey(variable string) (key string) {
	for top, names := range l.names {
		rest, ok := strings.CutPrefix(variable, envName(top)+"_")
		if !ok {
			continue
		}
		longest := 0
		for _, k := range schema.keys {
			field, ok := strings.CutPrefix(k.Name, top+"."+anyName+".")
			if !ok {
				continue
			}
			section, ok := strings.CutSuffix(rest, strings.TrimPrefix(envName(field), "SKYDIVE"))
			if !ok || section == "" || len(field) < longest {
				continue
			}
			name := lower(section)
			for known := range names {
				if envName(known) == "SKYDIVE_"+section {
					name = known
				}
			}
			key, longest = join(top, join(name, field)), len(field)
		}
		if key != "" {
			l.name(key)
		}
	}
	return key
}

// applyRenames lets old keys be the defaults of the new ones.
func (l *loader) applyRenames() {
	for _, old := range slices.Sorted(maps.Keys(l.old)) {
		var news []string
		for _, i := range schema.renamed[old] {
			name := schema.keys[i].Name
			news = append(news, name)
			if !l.viper.IsSet(name) {
				l.viper.SetDefault(name, l.old[old])
			}
		}
		l.report(Notice, l.old[old].at(nil), old, "Config value '%s' is now deprecated. Please use '%s' instead", old, strings.Join(news, "', '"))
	}
}
