package query

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestWhichStepAfterWhich compiles every step after every result that has to do with flows.
func TestWhichStepAfterWhich(t *testing.T) {
	steps := []string{
		"G", "V()", "E()", "At(1)", "Has('Network','x')", "HasEither('Network','x')", "HasKey('Network')", "HasNot('Network')", "In()",
		"Out()", "Both()", "InE()", "OutE()", "BothE()", "InV()", "OutV()", "BothV()", "Dedup()", "ShortestPathTo(Metadata('a','b'))",
		"SubGraph()", "Count()", "Range(0,1)", "Limit(1)", "Sort()", "Values('UUID')", "ValueMap('UUID')", "Keys()",
		"Sum('Metric.ABBytes')", "Sum('ABBytes')", "Sum()", "As('x')", "Select('x')", "Workflow('w')", "Flows()", "Nodes()", "Hops()",
		"CaptureNode()", "Metrics()", "Aggregates()", "RawPackets()", "BPF('icmp')", "Sockets()", "Descendants()", "Ascendants()",
		"Neighbors()", "NextHop('1.2.3.4')", "Group()", "MoreThan()",
	}
	for before, after := range map[string]string{
		"G":           "V() E() At(1) Flows()",
		"G.At(1)":     "V() E() Flows()",
		"G.At(1).V()": "Flows()",
		"G.Flows()": "Has('Network','x') HasEither('Network','x') In() Out() Both() Dedup() Count() Range(0,1) Limit(1) Sort() Values('UUID') " +
			"Keys() Sum('Metric.ABBytes') Nodes() Hops() CaptureNode() Metrics() RawPackets() Sockets() Group()",
		"G.Flows().Metrics()":              "Count() Keys() Sum('ABBytes') Sum() Aggregates()",
		"G.Flows().Metrics().Aggregates()": "Count() Keys() Sum('ABBytes') Sum() Aggregates()",
		"G.Flows().RawPackets()":           "BPF('icmp')",
		"G.Flows().Group()":                "MoreThan()",
		"G.Flows().Group().MoreThan()":     "MoreThan()",
		"G.Flows().Sockets()":              "Has('Network','x') HasEither('Network','x') Values('UUID')",
		"G.Flows().Count()":                "",
		"G.Flows().Sum('Metric.ABBytes')":  "",
		"G.Flows().Metrics().Sum()":        "",
		"G.E()":                            "",
		"G.V().Metrics()":                  "",
	} {
		for _, s := range steps {
			_, err := Compile(parse(t, before+"."+s), AllSteps)
			want := slices.Contains(strings.Fields(after), s)
			if before == "G.E()" || before == "G.V().Metrics()" || before == "G.At(1).V()" { // only their way to flows is meant here
				if s != "Flows()" && s != "RawPackets()" && s != "Group()" && s != "BPF('icmp')" {
					continue
				}
			}
			var usage *Error
			if (err == nil) != want || err != nil && (!errors.As(err, &usage) || usage.Offset != len(before)+1 && before != "G") {
				t.Errorf("%s.%s: %v", before, s, err)
			}
		}
	}
}

func TestErrorsOfFlowSteps(t *testing.T) {
	for query, want := range map[string]string{
		"G.Flows().Has('Application')":           "At least two parameters must be provided",
		"G.Flows().Limit(1).HasEither('x')":      "At least two parameters must be provided",
		"G.Flows().V()":                          "Invalid step 'V' on flows",
		"G.Flows().HasKey('Network')":            "Invalid step 'HasKey' on flows",
		"G.E().Flows()":                          "Invalid step 'Flows' on edges",
		"G.Flows().Metrics().Limit(1)":           "Invalid step 'Limit' on metrics of flows",
		"G.Flows().Group().Group()":              "Invalid step 'Group' on groups of flows",
		"G.Flows().RawPackets().Count()":         "Invalid step 'Count' on packets",
		"G.Flows().Sum('Start')":                 "Sum accepts only sub fields of Metric and LastUpadteMetric",
		"G.Flows().Sum()":                        "Sum accepts only sub fields of Metric and LastUpadteMetric",
		"G.Flows().Sum('Metric.Nope')":           "Field not found: Metric.Nope",
		"G.Flows().Metrics().Sum('Nope')":        "Field not found: Nope",
		"G.Flows().Metrics('Ovs')":               "Metric field unknown : [Ovs]",
		"G.Flows().Metrics('Ovs').Sum()":         "Metric field unknown : [Ovs]",
		"G.Flows().Dedup('UUID','Start')":        "Dedup of flows accepts one key : [UUID Start]",
		"G.Flows().Limit(1).Dedup('Nope')":       "Field not found: Nope",
		"G.Flows().Sort('Nope')":                 "Field not found: Nope",
		"G.Flows().Limit(1).Sort(DESC,'Nope.A')": "Field not found: Nope.A",
		"G.Flows().RawPackets().BPF('port')":     `BPF filter "port": `,
	} {
		_, err := Compile(parse(t, query), AllSteps)
		var usage *Error
		if !errors.As(err, &usage) || err.Error() != want && (!strings.HasSuffix(want, ": ") || !strings.HasPrefix(err.Error(), want) || len(err.Error()) == len(want)) {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
}
