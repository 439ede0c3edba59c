package graph

import (
	"fmt"
	"testing"
	"unsafe"
)

func stat[V keyed](name string, t *trie[V]) {
	var br, ll, lc, cl, cc, nochild int
	var walk func(b *branch[V])
	walk = func(b *branch[V]) {
		br++
		ll += len(b.leaves)
		lc += cap(b.leaves)
		cl += len(b.children)
		cc += cap(b.children)
		if len(b.children) == 0 {
			nochild++
		}
		for _, c := range b.children {
			walk(c)
		}
	}
	if t.root != nil {
		walk(t.root)
	}
	var l V
	fmt.Printf("%s n=%d branches=%d (childless %d) leaf len=%d cap=%d size=%d child len=%d cap=%d bytes/key=%.1f\n", name, t.n, br, nochild, ll, lc, unsafe.Sizeof(l), cl, cc,
		float64(br*int(unsafe.Sizeof(branch[V]{}))+lc*int(unsafe.Sizeof(l))+cc*8)/float64(t.n))
}

func TestStat(t *testing.T) {
	g := New(Options{})
	fill(t, g, 0)
	stat("slots", &g.state.slots)
	stat("edges", &g.state.edges)
	for i := range g.state.index {
		stat(indexed[i], &g.state.index[i])
	}
}
