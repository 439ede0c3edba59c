package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// tree is a random tree of nodes n0, n1, …, as agents of many hosts would send it: the parent of a node is any one before it. One more
// edge, from the last node to the first, makes as many edges as nodes.
type tree struct {
	parents []int // parents[i] is that of node i; that of the first is the last
	prefix  string
}

// newTree makes a tree, each time the same; the prefix keeps the ids of two trees apart.
func newTree(nodes int, prefix string) *tree {
	t := &tree{parents: make([]int, nodes), prefix: prefix}
	random := rand.New(rand.NewPCG(1, 2))
	for i := 1; i < nodes; i++ {
		t.parents[i] = random.IntN(i)
	}
	t.parents[0] = nodes - 1
	return t
}

func (t *tree) size() int { return len(t.parents) }

// children counts those of node i.
func (t *tree) children(i int) []int {
	var all []int
	for c, p := range t.parents {
		if p == i {
			all = append(all, c)
		}
	}
	return all
}

// id returns that of node i, in the form of a UUID.
func (t *tree) id(i int) string { return fmt.Sprintf("%s%07x-bead-4bed-8bad-%012x", t.prefix, i, i) }

// node appends node i as JSON, with the eight keys of metadata that an interface has at least.
func (t *tree) node(dst []byte, i int) []byte {
	state := "UP"
	if i%7 == 0 {
		state = "DOWN"
	}
	return fmt.Appendf(dst, `{"ID":"%s","Metadata":{"Name":"n%d","Type":"x","TID":"%08x-feed-5eed-8eed-%012x","MAC":"02:00:%02x:%02x:%02x:%02x","IfIndex":%d,"MTU":1500,"State":"%s","Driver":"veth"},`+
		`"Host":"host%d","Origin":"","CreatedAt":1700000000000,"UpdatedAt":1700000000000,"DeletedAt":null,"Revision":1}`,
		t.id(i), i, i, i, byte(i>>24), byte(i>>16), byte(i>>8), byte(i), i%1000+2, state, i/1000)
}

// edge appends an edge as JSON.
func (t *tree) edge(dst []byte, relation string, parent, child int) []byte {
	return fmt.Appendf(dst, `{"ID":"%s%07x-%c%03x-4bed-8bad-%012x","Metadata":{"RelationType":"%s"},"Host":"host%d","Origin":"","CreatedAt":1700000000000,"UpdatedAt":1700000000000,`+
		`"DeletedAt":null,"Revision":1,"Parent":"%s","Child":"%s"}`, t.prefix, child, hex(relation), parent&0xfff, parent, relation, child/1000, t.id(parent), t.id(child))
}

// hex returns a digit that differs between the relations used here.
func hex(relation string) byte { return "0123456789abcdef"[relation[0]%16] }

func envelope(kind string, obj []byte) []byte {
	return append(append([]byte(`{"Namespace":"Graph","Type":"`+kind+`","Obj":`), obj...), '}')
}

// sync returns the whole tree as one message.
func (t *tree) sync() []byte {
	obj := make([]byte, 0, 700*t.size())
	obj = append(obj, `{"Nodes":[`...)
	for i := range t.parents {
		obj = append(t.node(obj, i), ',')
	}
	obj = append(bytes.TrimSuffix(obj, []byte{','}), `],"Edges":[`...)
	for i, p := range t.parents {
		obj = append(t.edge(obj, "ownership", p, i), ',')
	}
	return envelope("Sync", append(bytes.TrimSuffix(obj, []byte{','}), "]}"...))
}

// messages returns the tree as a message for each element.
func (t *tree) messages() [][]byte {
	var all [][]byte
	for i := range t.parents {
		all = append(all, envelope("NodeAdded", t.node(nil, i)))
	}
	for i, p := range t.parents {
		all = append(all, envelope("EdgeAdded", t.edge(nil, "ownership", p, i)))
	}
	return all
}

// chain returns a message with edges that join all nodes of the tree in their order.
func (t *tree) chain() []byte {
	obj := []byte(`{"Nodes":null,"Edges":[`)
	for i := 1; i < t.size(); i++ {
		obj = append(t.edge(obj, "chain", i-1, i), ',')
	}
	return envelope("Sync", append(bytes.TrimSuffix(obj, []byte{','}), "]}"...))
}

// named counts the nodes whose name starts so.
func (t *tree) named(prefix string) int {
	n := 0
	for i := range t.parents {
		if strings.HasPrefix("n"+strconv.Itoa(i), prefix) {
			n++
		}
	}
	return n
}
