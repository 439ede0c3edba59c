// Package resource is what the API stores: captures, packet injections, alerts, rules and workflows – their fields, their JSON, their
// defaults and what makes one valid.
//
// It neither stores nor acts on them. BPF filters are compiled only to see whether they are right, for Ethernet frames.
package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"
	"gopkg.in/yaml.v3"

	"skydive/src/gremlin"
)

// Resource is one stored object. Its JSON is that of the public API: fields marked "oe" there are left out when empty.
type Resource interface {
	ID() string
	SetID(id string)
	// SetDefaults fills in what the client left open.
	SetDefaults(d Defaults)
	// Validate returns all faults, each beginning with the name of its field, or nil.
	Validate() error
	// Conflict says why this resource cannot exist beside other, which has the same kind; nil when it can.
	Conflict(other Resource) error
}

// ErrDuplicate is wrapped by a Conflict with a resource that does the same.
var ErrDuplicate = errors.New("duplicated resource")

// Defaults are what the server puts into fields that were left open.
type Defaults struct {
	Now          time.Time // Alert.CreateTime
	LayerKeyMode string    // Capture.LayerKeyMode; L2 when empty
}

// Kind is one sort of resource.
type Kind struct {
	Name      string // in paths, keys of the store and RBAC objects
	Updatable bool   // PATCH is supported
	New       func() Resource
}

// Kinds lists all sorts of resources.
func Kinds() []Kind {
	return []Kind{
		{"alert", true, func() Resource { return new(Alert) }},
		{"capture", false, func() Resource { return new(Capture) }},
		{"edgerule", false, func() Resource { return new(EdgeRule) }},
		{"injectpacket", false, func() Resource { return new(Injection) }},
		{"noderule", false, func() Resource { return new(NodeRule) }},
		{"workflow", true, func() Resource { return new(Workflow) }},
	}
}

// Decode reads one resource. Field names match whatever their case, unknown ones are ignored.
func (k Kind) Decode(data []byte) (Resource, error) {
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return nil, io.EOF
	}
	if string(data) == "null" {
		return nil, fmt.Errorf("want a JSON object of a %s, not null", k.Name)
	}
	r := k.New()
	if err := json.Unmarshal(data, r); err != nil {
		return nil, err
	}
	return r, nil
}

// DecodeYAML is Decode for YAML; the keys are those of the JSON.
func (k Kind) DecodeYAML(data []byte) (Resource, error) {
	var v any
	if err := yaml.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("YAML keys must be text: %w", err)
	}
	return k.Decode(text)
}

// NewID returns a random identifier (UUID version 4).
func NewID() string { return uuid.NewString() }

// NameID returns the identifier that follows from a name, always the same (UUID version 5).
func NameID(name string) string { return uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)).String() }

// Identity is the identifier that every resource has.
type Identity struct {
	UUID string
}

// ID returns the identifier.
func (i *Identity) ID() string { return i.UUID }

// SetID gives the identifier.
func (i *Identity) SetID(id string) { i.UUID = id }

// SetDefaults does nothing: most kinds have none.
func (*Identity) SetDefaults(Defaults) {}

// Conflict is nil: most kinds may exist any number of times.
func (*Identity) Conflict(Resource) error { return nil }

// checkGremlin tells whether a field is a query; every step of the language is known here.
func checkGremlin(name, query string) error {
	if _, err := gremlin.Parse(query); err != nil {
		return fmt.Errorf("%s: Not a valid Gremlin expression: %w", name, err)
	}
	return nil
}

func fault(name, text string) error { return fmt.Errorf("%s: %s", name, text) }

// CheckNode tells whether metadata is that of a node: Type and Name, and what the type needs besides. get looks up a key.
func CheckNode[V any](get func(key string) (V, bool)) error {
	faults := []error{needText(get, "Type"), needText(get, "Name")}
	v, _ := get("Type")
	switch any(v) {
	case "netns":
		faults = append(faults, needText(get, "Path"))
	case "ovsport":
		faults = append(faults, needText(get, "UUID"))
	}
	return errors.Join(faults...)
}

// CheckEdge tells whether metadata is that of an edge: it needs a RelationType.
func CheckEdge[V any](get func(key string) (V, bool)) error {
	return errors.Join(needText(get, "RelationType"))
}

func needText[V any](get func(key string) (V, bool), key string) error {
	v, ok := get(key)
	text, isText := any(v).(string)
	switch {
	case !ok:
		return fmt.Errorf("invalid schema: Metadata: %s is required", key)
	case !isText:
		return fmt.Errorf("invalid schema: Metadata.%s: want a string", key)
	case text == "":
		return fmt.Errorf("invalid schema: Metadata.%s: must not be empty", key)
	}
	return nil
}
