package gremlin

import "strings"

// Kind names a step.
type Kind uint8

// All steps. Those after Workflow do not exist on agents, see Kind.Base.
const (
	G Kind = iota + 1 // back to the whole graph, written without parentheses
	V
	E
	Context
	Has
	HasEither
	HasKey
	HasNot
	In
	Out
	Both
	InE
	OutE
	BothE
	InV
	OutV
	BothV
	Dedup
	ShortestPathTo
	SubGraph
	Count
	Range
	Limit
	Sort
	Values
	ValueMap
	Keys
	Sum
	As
	Select

	Workflow
	Flows
	Nodes
	Hops
	CaptureNode
	Metrics
	Aggregates
	RawPackets
	BPF
	Sockets
	Descendants
	Ascendants
	Neighbors
	NextHop
	Group
	MoreThan

	kinds
)

// Base says whether agents know the step too (selections of captures, injections and rules are limited to those).
func (k Kind) Base() bool { return k >= G && k < Workflow }

func (k Kind) String() string { return steps[k].name }

// step describes the parameters of a step.
type step struct {
	name  string
	check func(name string, args []Arg) *fault
}

// steps is indexed by Kind; entry 0 stands for no step.
var steps = [kinds]step{
	0:              {"?", noArgs},
	G:              {"G", noArgs},
	V:              {"V", element},
	E:              {"E", element},
	Context:        {"Context", context},
	Has:            {"Has", filter(1)},
	HasEither:      {"HasEither", filter(1)},
	HasKey:         {"HasKey", oneKey},
	HasNot:         {"HasNot", oneKey},
	In:             {"In", filter(0)},
	Out:            {"Out", filter(0)},
	Both:           {"Both", filter(0)},
	InE:            {"InE", filter(0)},
	OutE:           {"OutE", filter(0)},
	BothE:          {"BothE", filter(0)},
	InV:            {"InV", filter(0)},
	OutV:           {"OutV", filter(0)},
	BothV:          {"BothV", filter(0)},
	Dedup:          {"Dedup", keys(0)},
	ShortestPathTo: {"ShortestPathTo", shortestPath},
	SubGraph:       {"SubGraph", filter(0)},
	Count:          {"Count", noArgs},
	Range:          {"Range", ints(2)},
	Limit:          {"Limit", ints(1)},
	Sort:           {"Sort", sorting},
	Values:         {"Values", oneKey},
	ValueMap:       {"ValueMap", keys(1)},
	Keys:           {"Keys", noArgs},
	Sum:            {"Sum", optionalKey},
	As:             {"As", oneKey},
	Select:         {"Select", keys(1)},
	Workflow:       {"Workflow", workflow},
	Flows:          {"Flows", flows},
	Nodes:          {"Nodes", filter(0)},
	Hops:           {"Hops", filter(0)},
	CaptureNode:    {"CaptureNode", filter(0)},
	Metrics:        {"Metrics", optionalKey},
	Aggregates:     {"Aggregates", aggregates},
	RawPackets:     {"RawPackets", noArgs},
	BPF:            {"BPF", oneKey},
	Sockets:        {"Sockets", noArgs},
	Descendants:    {"Descendants", relatives},
	Ascendants:     {"Ascendants", relatives},
	Neighbors:      {"Neighbors", relatives},
	NextHop:        {"NextHop", nextHop},
	Group:          {"Group", optional},
	MoreThan:       {"MoreThan", optional},
}

// byName maps lower-case names to steps.
var byName = func() map[string]Kind {
	m := map[string]Kind{"at": Context, "node": CaptureNode}
	for k := G; k < kinds; k++ {
		m[strings.ToLower(steps[k].name)] = k
	}
	return m
}()

// Op names a predicate.
type Op uint8

// All predicates.
const (
	NE        Op = iota + 1 // the field exists and differs
	NEE                     // the field differs or is missing
	LT                      //
	GT                      //
	LTE                     //
	GTE                     //
	Inside                  // a < x < b
	Between                 // a ≤ x < b
	Outside                 // x < a or x > b
	Within                  // equals any
	Without                 // equals none, or is missing
	Regex                   // RE2, anchored at both ends
	IPv4Range               // text is an IPv4 address inside a CIDR

	ops
)

func (o Op) String() string { return predicates[o].name }

type predicate struct {
	name  string
	check func(name string, args []Arg) *fault
}

// predicates is indexed by Op; entry 0 stands for none.
var predicates = [ops]predicate{
	0:         {"?", noArgs},
	NE:        {"NE", scalars(1)},
	NEE:       {"NEE", scalars(1)},
	LT:        {"LT", numbers(1)},
	GT:        {"GT", numbers(1)},
	LTE:       {"LTE", numbers(1)},
	GTE:       {"GTE", numbers(1)},
	Inside:    {"INSIDE", numbers(2)},
	Between:   {"BETWEEN", numbers(2)},
	Outside:   {"OUTSIDE", numbers(2)},
	Within:    {"WITHIN", scalars(-1)},
	Without:   {"WITHOUT", scalars(-1)},
	Regex:     {"REGEX", regex},
	IPv4Range: {"IPV4RANGE", ipv4Range},
}

var opByName = func() map[string]Op {
	m := make(map[string]Op, ops)
	for o := NE; o < ops; o++ {
		m[strings.ToLower(predicates[o].name)] = o
	}
	return m
}()

// words are the bare words allowed as parameters.
var words = map[string]Arg{"true": true, "false": false, "asc": Asc, "desc": Desc, "now": Now, "forever": Forever}
