// Package sampled takes what switches, routers and hosts tell of the packets that they forward: samples and counters as sFlow version 5, flow
// records as NetFlow versions 5 and 9 (RFC 3954) and IPFIX (RFC 7011, both directions in one as in RFC 5103). Exporters are told apart by their
// address; those of their interfaces that are nodes of the graph have flows of their own, all others are flows of the node that listens.
//
// What is sampled is scaled by the rate that the exporter states. Nothing is lost silently: gaps in sequence numbers, repeated and broken
// datagrams are counted, as is what the kernel dropped. It takes datagrams from anybody, for these protocols know no authentication: who may send is a
// matter for the firewall. Memory for exporters and their templates is bounded, whoever sends. It sends nothing, and takes no SCTP or TCP.
package sampled

import (
	"skydive/src/capture"
)

// Options of the listeners.
type Options struct {
	Whole      bool // NetFlow version 5 counts the bytes of whole frames, as Open vSwitch does, and not those of IP
	ReadBuffer int  // bytes that the kernel holds for one; 0: 4 MiB
	Entering   bool // flows are counted where they come in, and left out where they leave: the exporter tells of both
}

const (
	sflowPort   = 6343
	netflowPort = 2055
	readBuffer  = 4 << 20
)

// Kinds returns the kinds of source of this package by name of the capture type.
func Kinds(o Options) map[string]capture.Kind {
	return map[string]capture.Kind{
		"sflow": {New: func(r capture.Request) capture.Source {
			s := SFlow(r, nil, o)
			s.usual = sflowPort
			return s
		}},
		"netflow": {Records: true, New: func(r capture.Request) capture.Source {
			s := Netflow(r, nil, o)
			s.usual = netflowPort
			return s
		}},
	}
}
