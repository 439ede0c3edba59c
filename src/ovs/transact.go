package ovs

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Operation is one step of a transaction.
type Operation map[string]any

// Condition is a test of a column: {column, function, value}.
type Condition [3]any

// Where tests a column with one of the functions ==, !=, <, <=, >, >=, includes, excludes. The UUID of a row is its column _uuid.
func Where(column, function string, value any) Condition {
	return Condition{column, function, encode(value)}
}

// Is selects one row.
func Is(id UUID) Condition { return Where("_uuid", "==", id) }

// Insert adds a row. Other operations of the transaction refer to it by NamedUUID(name), unless the name is "". A row of a table
// that is no root must be referred to by another, or it is gone at the end of the transaction.
func Insert(table, name string, row Row) Operation {
	op := Operation{"op": "insert", "table": table, "row": encode(row)}
	if name != "" {
		op["uuid-name"] = name
	}
	return op
}

// Update sets columns of all rows that meet the conditions.
func Update(table string, row Row, where ...Condition) Operation {
	return Operation{"op": "update", "table": table, "where": conditions(where), "row": encode(row)}
}

// Mutation changes a column: {column, mutator, value}.
type Mutation [3]any

// Mutate makes a mutation: insert or delete for sets and maps, += and so on for numbers. To delete from a map, give a set of keys.
func Mutate(column, mutator string, value any) Mutation {
	return Mutation{column, mutator, encode(value)}
}

// MutateRows mutates columns of all rows that meet the conditions.
func MutateRows(table string, mutations []Mutation, where ...Condition) Operation {
	return Operation{"op": "mutate", "table": table, "where": conditions(where), "mutations": mutations}
}

// Delete deletes all rows that meet the conditions.
func Delete(table string, where ...Condition) Operation {
	return Operation{"op": "delete", "table": table, "where": conditions(where)}
}

// Select reads columns, nil for all, of all rows that meet the conditions.
func Select(table string, columns []string, where ...Condition) Operation {
	op := Operation{"op": "select", "table": table, "where": conditions(where)}
	if columns != nil {
		op["columns"] = columns
	}
	return op
}

// Wait makes the transaction fail unless columns of the rows that meet the conditions become == or != to the given rows in time.
func Wait(table string, timeout time.Duration, columns []string, until string, rows []Row, where ...Condition) Operation {
	encoded := make([]any, len(rows))
	for i, row := range rows {
		encoded[i] = encode(row)
	}
	return Operation{
		"op": "wait", "table": table, "timeout": timeout.Milliseconds(), "where": conditions(where), "columns": columns,
		"until": until, "rows": encoded,
	}
}

// Comment leaves a text in the log of the database.
func Comment(text string) Operation { return Operation{"op": "comment", "comment": text} }

// conditions never returns nil: OVSDB wants a list.
func conditions(where []Condition) []Condition {
	if where == nil {
		return []Condition{}
	}
	return where
}

// Result is what one operation did.
type Result struct {
	Count int64 // rows changed by Update, MutateRows and Delete
	UUID  UUID  // of the row that Insert added
	Rows  []Row // of Select
}

// OperationError tells which operation the server refused, and why. Nothing of the transaction was done then.
type OperationError struct {
	Index   int // of the operation; -1 when it is the transaction as a whole
	Kind    string
	Details string
}

func (e *OperationError) Error() string {
	s := e.Kind
	if e.Details != "" {
		s += ": " + e.Details
	}
	if e.Index >= 0 {
		s = fmt.Sprintf("operation %d: %s", e.Index, s)
	}
	return s
}

func parseError(data json.RawMessage) error {
	var e struct{ Error, Details string }
	if json.Unmarshal(data, &e) == nil && e.Error != "" {
		return &OperationError{Index: -1, Kind: e.Error, Details: e.Details}
	}
	return fmt.Errorf("refused: %.200s", data)
}

// Transact carries out operations, all or none. What they change in monitored tables has been given to the handler of Monitor when
// it returns. When ctx ends first it is not known whether they were done.
func (c *Client) Transact(ctx context.Context, ops ...Operation) ([]Result, error) {
	conn := c.ready()
	if conn == nil {
		return nil, ErrNotConnected
	}
	type reply struct {
		data json.RawMessage
		err  error
	}
	answer := make(chan reply, 1)
	params := append(make([]any, 0, 1+len(ops)), c.options.Database)
	for _, op := range ops {
		params = append(params, op)
	}
	id, err := conn.request("transact", params, func(data json.RawMessage, err error) error {
		answer <- reply{data, err}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("OVSDB transaction: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	select {
	case r := <-answer:
		var results []Result
		if err = r.err; err == nil {
			results, err = parseResults(r.data, len(ops))
		}
		if err != nil {
			return nil, fmt.Errorf("OVSDB transaction: %w", err)
		}
		return results, nil
	case <-ctx.Done():
		conn.forget(id)
		return nil, fmt.Errorf("OVSDB transaction: %w", ctx.Err())
	}
}

func parseResults(data json.RawMessage, n int) ([]Result, error) {
	var in []*struct {
		Error, Details string
		Count          int64
		UUID           []string
		Rows           []Row
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("answer that cannot be read: %w", err)
	}
	for i, r := range in {
		if r != nil && r.Error != "" {
			if i >= n { // found when all operations were done
				i = -1
			}
			return nil, &OperationError{Index: i, Kind: r.Error, Details: r.Details}
		}
	}
	if len(in) < n {
		return nil, fmt.Errorf("%d answers to %d operations", len(in), n)
	}
	results := make([]Result, n)
	for i, r := range in[:n] {
		if r == nil {
			return nil, fmt.Errorf("no answer to operation %d", i)
		}
		results[i] = Result{Count: r.Count, Rows: r.Rows}
		if len(r.UUID) == 2 {
			results[i].UUID = UUID(r.UUID[1])
		}
	}
	return results, nil
}
