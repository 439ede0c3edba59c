package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Kind is the type of a key's value.
type Kind int

// The kinds of keys.
const (
	String      Kind = iota
	Bool             // Go bool syntax, or yes, no, on, off
	Int              // decimal
	Seconds          // whole seconds, or a Go duration
	SizeKind         // bytes, or a number with KiB, MiB, GiB or TiB
	AddressKind      // host:port, :port or port
	Addresses        // list of addresses
	List             // list of strings
	Map              // free-form map; its keys keep case and dots
	StringMap        // map of strings, kept as they are written
	Objects          // list of maps
)

// String returns the name used in messages and in the reference.
func (k Kind) String() string {
	return [...]string{"string", "true or false", "whole number", "duration", "size", "address", "list of addresses", "list of strings", "map", "map of strings", "list of maps"}[k]
}

// Key describes one key. Name is lower case; its level "<name>" stands for a
// section that the user names.
type Key struct {
	Name    string
	Kind    Kind
	Default string // YAML text; "" = no default
	Doc     string
	Unit    string
	Min     int64
	OneOf   []string
	Secret  bool
	Status  Status

	hasDefault bool
}

// Env returns the name of the key's environment variable.
func (k Key) Env() string { return envName(k.Name) }

var envReplacer = strings.NewReplacer(".", "_", "-", "_")

func envName(key string) string { return "SKYDIVE_" + strings.ToUpper(envReplacer.Replace(key)) }

const anyName = "<name>"

// spec is the immutable table of all keys.
type spec struct {
	keys     []Key
	index    map[string]int    // name → position in keys
	sections map[string]string // name of a section → its doc
	renamed  map[string][]int  // old name → positions in keys
}

var schema = newSpec()

func newSpec() spec {
	s := spec{index: map[string]int{}, sections: map[string]string{}, renamed: map[string][]int{}}
	s.addStruct(reflect.TypeFor[Config](), "")
	for _, k := range reserved {
		k.hasDefault = k.Default != ""
		s.add(k)
	}
	for _, r := range renames {
		s.renamed[r.old] = append(s.renamed[r.old], s.index[r.new])
		s.addParents(r.old)
	}
	return s
}

func (s *spec) addStruct(t reflect.Type, prefix string) {
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		if f.Anonymous {
			s.addStruct(f.Type, prefix)
			continue
		}
		name := join(prefix, fieldName(f))
		switch kind, leaf := kindOf(f.Type); {
		case leaf:
			def, hasDefault := f.Tag.Lookup("default")
			lowest, _ := strconv.ParseInt(f.Tag.Get("min"), 10, 64)
			k := Key{Name: name, Kind: kind, Default: def, hasDefault: hasDefault, Doc: f.Tag.Get("doc"), Unit: f.Tag.Get("unit"), Min: lowest, Secret: f.Tag.Get("secret") == "true"}
			if words, ok := f.Tag.Lookup("oneof"); ok {
				k.OneOf = strings.Split(words, "|")
			}
			s.add(k)
		case f.Type.Kind() == reflect.Map:
			s.sections[name] = f.Tag.Get("doc")
			s.addStruct(f.Type.Elem(), name+"."+anyName)
		default:
			s.sections[name] = f.Tag.Get("doc")
			s.addStruct(f.Type, name)
		}
	}
}

func (s *spec) add(k Key) {
	s.index[k.Name] = len(s.keys)
	s.keys = append(s.keys, k)
	s.addParents(k.Name)
}

func (s *spec) addParents(name string) {
	for i := strings.LastIndexByte(name, '.'); i > 0; i = strings.LastIndexByte(name[:i], '.') {
		if _, known := s.sections[name[:i]]; !known {
			s.sections[name[:i]] = ""
		}
	}
}

// generic replaces the name that a user gave to a section by "<name>".
func (s *spec) generic(key string) string {
	top, rest, ok := strings.Cut(key, ".")
	if !ok {
		return key
	}
	if _, named := s.sections[top+"."+anyName]; !named {
		return key
	}
	_, field, ok := strings.Cut(rest, ".")
	if !ok {
		return top + "." + anyName
	}
	return top + "." + anyName + "." + field
}

// key returns the description of a key as the user spells it.
func (s *spec) key(name string) (Key, bool) {
	i, ok := s.index[s.generic(name)]
	if !ok {
		return Key{}, false
	}
	k := s.keys[i]
	k.Name = name
	return k, true
}

func (s *spec) isSection(name string) bool {
	if _, ok := s.sections[name]; ok {
		return true
	}
	_, ok := s.sections[s.generic(name)]
	return ok
}

// hint guesses what the author of an unknown key meant; "" when it cannot.
func (s *spec) hint(name string) string {
	best, distance := "", max(2, len(name)/5)+1
	tail := lastTwo(name)
	for _, k := range s.keys {
		candidate := strings.Replace(k.Name, anyName, sectionName(name), 1)
		d := levenshtein(name, candidate)
		if strings.Contains(tail, ".") && lastTwo(candidate) == tail {
			d = 0 // right words in the wrong place
		}
		if d < distance {
			best, distance = candidate, d
		}
	}
	for section := range s.sections {
		if d := levenshtein(name, section); d < distance || d == distance && section < best {
			best, distance = section, d
		}
	}
	return best
}

func sectionName(key string) string {
	if parts := strings.Split(key, "."); len(parts) > 2 {
		return parts[1]
	}
	return anyName
}

func lastTwo(name string) string {
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		return name[strings.LastIndexByte(name[:i], '.')+1:]
	}
	return name
}

func levenshtein(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func join(prefix, name string) string {
	if prefix == "" {
		return name
	}
	return prefix + "." + name
}

func fieldName(f reflect.StructField) string {
	if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "" {
		return name
	}
	return strings.ToLower(f.Name)
}

func kindOf(t reflect.Type) (Kind, bool) {
	switch t {
	case reflect.TypeFor[string]():
		return String, true
	case reflect.TypeFor[bool]():
		return Bool, true
	case reflect.TypeFor[int]():
		return Int, true
	case reflect.TypeFor[time.Duration]():
		return Seconds, true
	case reflect.TypeFor[Size]():
		return SizeKind, true
	case reflect.TypeFor[Address]():
		return AddressKind, true
	case reflect.TypeFor[[]Address]():
		return Addresses, true
	case reflect.TypeFor[[]string]():
		return List, true
	case reflect.TypeFor[map[string]any]():
		return Map, true
	case reflect.TypeFor[map[string]string]():
		return StringMap, true
	}
	if k := t.Kind(); k != reflect.Struct && (k != reflect.Map || t.Elem().Kind() != reflect.Struct) {
		panic(fmt.Sprintf("config: a key cannot have the type %s", t))
	}
	return 0, false
}
