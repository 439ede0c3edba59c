package field

import (
	"fmt"
	"strings"
)

// OpType says what an Op does. The numbers are those of partial updates on the wire (contract of /ws/subscriber).
type OpType int

const (
	OpSet    OpType = 1
	OpDelete OpType = 2
)

// Op is one step of a partial update: set or delete one dotted key.
type Op struct {
	Type  OpType
	Key   string
	Value Value
}

// Diff returns the steps that turn old into new. Objects are descended into, lists and scalars are replaced whole.
func Diff(old, new Object) []Op { return appendDiff(nil, "", old, new) }

func appendDiff(ops []Op, prefix string, old, new Object) []Op {
	i, j := 0, 0
	for i < len(old) || j < len(new) {
		switch {
		case j == len(new) || i < len(old) && old[i].Key < new[j].Key:
			ops = append(ops, Op{OpDelete, prefix + old[i].Key, nil})
			i++
		case i == len(old) || new[j].Key < old[i].Key:
			ops = append(ops, Op{OpSet, prefix + new[j].Key, new[j].Value})
			j++
		default:
			ops = appendChange(ops, prefix, old[i], new[j])
			i++
			j++
		}
	}
	return ops
}

func appendChange(ops []Op, prefix string, old, new Entry) []Op {
	before, ok1 := old.Value.(Object)
	after, ok2 := new.Value.(Object)
	// An object is replaced whole when it is or becomes empty (deleting its last key would delete the object itself) and when a
	// key of it holds a dot, which a dotted path cannot name.
	if ok1 && ok2 && len(before) > 0 && len(after) > 0 && !dotted(before) && !dotted(after) && !strings.Contains(new.Key, ".") {
		return appendDiff(ops, prefix+new.Key+".", before, after)
	}
	if Equal(old.Value, new.Value) {
		return ops
	}
	return append(ops, Op{OpSet, prefix + new.Key, new.Value})
}

func dotted(o Object) bool {
	for _, e := range o {
		if strings.Contains(e.Key, ".") {
			return true
		}
	}
	return false
}

// Apply carries out steps on a copy of o. An unknown step type or a path through a scalar is an error.
func Apply(o Object, ops []Op) (Object, error) {
	var err error
	out := o
	for _, op := range ops {
		switch op.Type {
		case OpSet:
			if out, err = out.Set(op.Key, op.Value); err != nil {
				return o, err
			}
		case OpDelete:
			out = out.Delete(op.Key)
		default:
			return o, fmt.Errorf("unknown operation %d on %q", op.Type, op.Key)
		}
	}
	return out, nil
}
