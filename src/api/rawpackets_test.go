package api

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"

	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/query"
)

// packetFlows is one flow with a packet.
type packetFlows struct{}

func (packetFlows) Flows(context.Context, []string, *flow.Search) ([]*flow.Flow, []string, error) {
	return []*flow.Flow{{UUID: "u", LastRawPackets: []flow.RawPacket{{Index: 1, Data: []byte("secret"), LinkType: 1}}}}, nil, nil
}

func (packetFlows) Total(context.Context, []string, *flow.Search, flow.Aggregate) (flow.Total, []string, error) {
	return flow.Total{}, nil, nil
}

// TestQueryPacketsRight: what is in packets takes the right rawpackets, by whichever step it is asked for; how many there were does not.
func TestQueryPacketsRight(t *testing.T) {
	s := newServer(t, map[string]string{"admin": "a", "bob": "b"}, func(o *Options) {
		o.Source = func() query.Source {
			return query.Source{Graph: graph.New(graph.Options{}).Snapshot(), Flows: packetFlows{}}
		}
	})
	for q, guest := range map[string]int{
		"G.Flows().RawPackets()":                               405,
		"G.Flows().RawPackets().BPF('tcp')":                    405,
		"G.Flows().Values('LastRawPackets')":                   405,
		"G.Flows().Has('LastRawPackets.Data', 'c2Vj').Count()": 405,
		"G.Flows('LastRawPackets.Data','c2V').Count()":         405,
		"G.Flows().Values('RawPacketsCaptured')":               200,
	} {
		for user, want := range map[string]int{"admin": 200, "bob": guest} {
			resp, body := s.do(t, "POST", "/api/topology", `{"GremlinQuery":"`+q+`"}`, "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+user[:1])))
			if resp.StatusCode != want || want != 200 && strings.Contains(body, "c2VjcmV0") {
				t.Errorf("%s for %s: %s %s", q, user, resp.Status, body)
			}
		}
	}
}
