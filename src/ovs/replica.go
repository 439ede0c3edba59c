package ovs

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// maxRows bounds the rows that are followed.
const maxRows = 4 << 20

// replica is the followed tables.
type replica struct {
	schema Schema
	tables map[string]map[UUID]Row
	rows   int
}

func newReplica(s Schema) *replica {
	return &replica{schema: s, tables: make(map[string]map[UUID]Row)}
}

// update1 takes in the updates of RFC 7047, with all columns of changed rows.
func (r *replica) update1(data json.RawMessage) ([]Change, error) {
	var in map[string]map[UUID]struct{ New *Row }
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("update that cannot be read: %w", err)
	}
	var changes []Change
	for table, rows := range in {
		for id, u := range rows {
			var row Row
			if u.New != nil {
				row = *u.New
				if row == nil {
					row = Row{}
				}
			}
			changes = r.put(changes, table, id, row)
		}
	}
	return r.inOrder(changes)
}

// update2 takes in the updates that ovsdb-server(7) calls update2, with differences of changed rows.
func (r *replica) update2(data json.RawMessage) ([]Change, error) {
	var in map[string]map[UUID]struct {
		Initial, Insert, Modify *Row
		Delete                  json.RawMessage
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("update that cannot be read: %w", err)
	}
	var changes []Change
	for table, rows := range in {
		for id, u := range rows {
			row := Row(nil)
			switch {
			case u.Initial != nil:
				row = *u.Initial
			case u.Insert != nil:
				row = *u.Insert
			case u.Modify != nil:
				row = r.modified(table, id, *u.Modify)
			}
			if row == nil && u.Delete == nil {
				row = Row{} // all columns have their defaults
			}
			changes = r.put(changes, table, id, row)
		}
	}
	return r.inOrder(changes)
}

func (r *replica) put(changes []Change, table string, id UUID, row Row) []Change {
	old := r.tables[table][id]
	switch {
	case row == nil && old == nil:
		return changes
	case row == nil:
		delete(r.tables[table], id)
		r.rows--
	default:
		if r.tables[table] == nil {
			r.tables[table] = make(map[UUID]Row)
		}
		if old == nil {
			r.rows++
		}
		r.tables[table][id] = row
	}
	return append(changes, Change{table, id, old, row})
}

func (r *replica) inOrder(changes []Change) ([]Change, error) {
	if r.rows > maxRows {
		return nil, fmt.Errorf("more than %d rows", maxRows)
	}
	slices.SortFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.UUID, b.UUID))
	})
	return changes, nil
}

// modified returns a row with a difference applied: single values are replaced; of sets and maps what is in the difference is toggled.
func (r *replica) modified(table string, id UUID, diff Row) Row {
	row := maps.Clone(r.tables[table][id])
	if row == nil {
		row = make(Row, len(diff))
	}
	for column, d := range diff {
		switch kind := r.schema[table][column]; {
		case kind.Many && kind.Map:
			row[column] = toggleMap(row[column], d)
		case kind.Many:
			row[column] = toggle(row.set(column), diff.set(column))
		default:
			row[column] = d
		}
	}
	return row
}

func toggle(old, diff []any) []any {
	change := make(map[any]bool, len(diff))
	for _, item := range diff {
		if isAtom(item) {
			change[item] = true
		}
	}
	now := make([]any, 0, len(old)+len(diff))
	for _, item := range old {
		if isAtom(item) && change[item] {
			delete(change, item)
		} else {
			now = append(now, item)
		}
	}
	for _, item := range diff {
		if isAtom(item) && change[item] {
			delete(change, item)
			now = append(now, item)
		}
	}
	return now
}

// isAtom tells whether a value can be the key of a map: garbage in a set may be a list.
func isAtom(v any) bool {
	switch v.(type) {
	case string, int64, float64, bool, UUID, NamedUUID:
		return true
	}
	return false
}

func toggleMap(old, diff any) any {
	o, _ := old.(map[string]any)
	d, ok := diff.(map[string]any)
	if !ok {
		return old
	}
	now := maps.Clone(o)
	if now == nil {
		now = make(map[string]any, len(d))
	}
	for key, v := range d {
		if was, has := now[key]; has && isAtom(v) && isAtom(was) && was == v {
			delete(now, key)
		} else {
			now[key] = v
		}
	}
	return now
}
