package ovs

import (
	"encoding/json"
	"slices"
)

// Schema describes the columns of each table, as the server has them.
type Schema map[string]map[string]Column

// Column is what the schema says of a column.
type Column struct {
	Type     string   // of its values: integer, real, boolean, string or uuid; "" when that cannot be read
	Map      bool     // a map, from text or what is written as text
	Many     bool     // a set, or a map, of more than one
	Optional bool     // it may be empty
	Refs     []string // the tables that its keys, and its values, refer to
}

// parseSchema reads what of a schema matters to a client.
func parseSchema(data json.RawMessage) (Schema, error) {
	var in struct {
		Tables map[string]struct {
			Columns map[string]struct {
				Type json.RawMessage `json:"type"`
			} `json:"columns"`
		} `json:"tables"`
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, err
	}
	s := make(Schema, len(in.Tables))
	for name, table := range in.Tables {
		s[name] = make(map[string]Column, len(table.Columns))
		for column, c := range table.Columns {
			s[name][column] = parseColumn(c.Type)
		}
	}
	return s, nil
}

// parseColumn never fails: what it does not understand is left out.
func parseColumn(data json.RawMessage) (c Column) {
	var t struct {
		Key, Value json.RawMessage
		Min, Max   any
	}
	if json.Unmarshal(data, &t) != nil {
		c.Type, _ = parseBase(data)
		return c
	}
	base, ref := parseBase(t.Key)
	c.Type, c.Map = base, len(t.Value) > 0
	if ref != "" {
		c.Refs = append(c.Refs, ref)
	}
	if c.Map {
		if c.Type, ref = parseBase(t.Value); ref != "" {
			c.Refs = append(c.Refs, ref)
		}
	}
	if limit, isNumber := t.Max.(float64); isNumber && limit > 1 || t.Max == "unlimited" {
		c.Many = true
	}
	least, isNumber := t.Min.(float64)
	c.Optional = isNumber && least == 0
	return c
}

// parseBase reads the type of one value: its name, or a description with the table that it refers to.
func parseBase(data json.RawMessage) (kind, ref string) {
	var base struct{ Type, RefTable string }
	if json.Unmarshal(data, &kind) == nil || json.Unmarshal(data, &base) != nil {
		return kind, ""
	}
	return base.Type, base.RefTable
}

// columns lists what there is of the columns that are asked for.
func (s Schema) columns(t Table) []string {
	var all []string
	for name := range s[t.Name] {
		if (t.Columns == nil || slices.Contains(t.Columns, name)) && !slices.Contains(t.Exclude, name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}
