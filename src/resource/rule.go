package resource

import "errors"

// NodeRule makes a node, or adds metadata to nodes. All fields are in its JSON, always.
type NodeRule struct {
	Identity
	Name        string
	Description string
	Metadata    map[string]any
	Action      string // create or update
	Query       string // Gremlin: the nodes to update
}

// Validate implements Resource.
func (r *NodeRule) Validate() error {
	var faults []error
	if r.Query != "" {
		faults = append(faults, checkGremlin("Query", r.Query))
	}
	switch r.Action {
	case "create":
		faults = append(faults, CheckNode(lookup(r.Metadata)))
	case "update":
		_, name := r.Metadata["Name"]
		if _, kind := r.Metadata["Type"]; name || kind {
			faults = append(faults, errors.New("Name and Type fields can not be changed"))
		}
	default:
		faults = append(faults, fault("Action", "regular expression mismatch: want create or update"))
	}
	return errors.Join(faults...)
}

// EdgeRule links the first node of a query with the first of another. All fields are in its JSON, always.
type EdgeRule struct {
	Identity
	Name        string
	Description string
	Src, Dst    string         // Gremlin
	Metadata    map[string]any // with RelationType
}

// Validate implements Resource.
func (r *EdgeRule) Validate() error {
	return errors.Join(checkGremlin("Src", r.Src), checkGremlin("Dst", r.Dst), CheckEdge(lookup(r.Metadata)))
}

func lookup(m map[string]any) func(string) (any, bool) {
	return func(key string) (any, bool) { v, ok := m[key]; return v, ok }
}
