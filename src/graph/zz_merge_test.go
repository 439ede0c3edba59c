package graph

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"skydive/src/field"
)

// BenchmarkMerge has what a Sync of 100k nodes and 100k edges costs the graph: all elements, read from JSON, in one Update.
func BenchmarkMerge(b *testing.B) {
	var text []byte
	prev := ""
	var et []byte
	for i := range big {
		id := GenID("n", fmt.Sprint(i))
		text = (&Node{Element{ID: id, Host: "h", Origin: "agent.h", CreatedAt: 1, UpdatedAt: 1, Revision: 1, Metadata: field.Make(
			"Name", fmt.Sprint("n", i), "Type", "veth", "TID", GenID("t", fmt.Sprint(i)), "MAC", fmt.Sprintf("02:00:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255),
			"IfIndex", i, "MTU", 1500, "State", "UP", "Driver", "veth")}}).AppendJSON(text)
		if prev != "" {
			et = (&Edge{Element: Element{ID: GenID("e", fmt.Sprint(i)), Host: "h", Origin: "agent.h", CreatedAt: 1, UpdatedAt: 1, Revision: 1,
				Metadata: field.Make("RelationType", "layer2")}, Parent: prev, Child: id}).AppendJSON(et)
		}
		prev = id
	}
	b.ReportAllocs()
	var before, mid, after runtime.MemStats
	for b.Loop() {
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&before)
		d := field.NewDecoder()
		nodes, edges := make([]*Node, big), make([]*Edge, big-1)
		dec := field.NewJSON(bytes.NewBuffer(text))
		for i := range nodes {
			var err error
			nodes[i], err = DecodeNode(dec, d)
			must(b, err)
		}
		dec = field.NewJSON(bytes.NewBuffer(et))
		for i := range edges {
			var err error
			edges[i], err = DecodeEdge(dec, d)
			must(b, err)
		}
		dec, d = nil, nil
		runtime.GC()
		runtime.ReadMemStats(&mid)
		g := New(Options{})
		b.StartTimer()
		must(b, g.Update("", func(tx *Tx) error {
			for _, n := range nodes {
				if err := tx.AddNode(n); err != nil {
					return err
				}
			}
			for _, e := range edges {
				if err := tx.AddEdge(e); err != nil {
					return err
				}
			}
			return nil
		}))
		b.StopTimer()
		nodes, edges = nil, nil
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(mid.HeapAlloc-before.HeapAlloc)/big-16, "elemB/node")
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/big, "B/node")
		runtime.KeepAlive(g)
		b.StartTimer()
	}
}

func BenchmarkDecode(b *testing.B) {
	text := (&Node{Element{ID: NewID(), Host: "h", Origin: "agent.h", CreatedAt: 1700000000000, UpdatedAt: 1700000000000, Revision: 1, Metadata: field.Make(
		"Name", "n12345", "Type", "veth", "TID", NewID(), "MAC", "02:00:00:00:00:01",
		"IfIndex", 12345, "MTU", 1500, "State", "UP", "Driver", "veth")}}).AppendJSON(nil)
	text = bytes.Repeat(text, 1000)
	b.ReportAllocs()
	d := field.NewDecoder()
	for b.Loop() {
		dec := field.NewJSON(bytes.NewBuffer(text))
		for range 1000 {
			_, err := DecodeNode(dec, d)
			must(b, err)
		}
	}
}
