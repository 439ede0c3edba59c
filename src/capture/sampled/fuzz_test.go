package sampled

import (
	"testing"

	"skydive/src/bpf"
	"skydive/src/capture"
	"skydive/src/flow"
	"skydive/src/resource"
)

// fuzzed feeds datagrams that follow each other in data, each after its length, and checks what must hold whatever they are.
func fuzzed(t *testing.T, kind func(capture.Request, Options) *Source, data []byte) {
	r := newReplay(t, kind, flow.Options{RawPacketLimit: 2, ExtraTCPMetric: true, IPDefrag: true, ReassembleTCP: true, ExtraLayers: 255}, resource.Capture{
		Exporters: []resource.Exporter{{Address: "192.0.2.7", IfIndex: 1, TID: "a"}},
	})
	f, err := bpf.Compile("not port 9", bpf.Ethernet, 256)
	if err != nil {
		t.Fatal(err)
	}
	r.request.Filter = f
	for n := 0; len(data) >= 2 && n < 8; n++ {
		size := min(int(data[0])<<8|int(data[1]), len(data)-2)
		r.feed(at(int64(n)), exporterAddress, data[2:2+size])
		data = data[2+size:]
	}
	fields := 0
	for _, e := range r.exporters.all {
		for _, x := range e.templates {
			fields += x.size()
		}
	}
	if fields != r.exporters.fields {
		t.Fatalf("%d fields, counted %d", fields, r.exporters.fields)
	}
	for _, f := range r.flows() {
		m := f.Metric
		if m.ABPackets < 0 || m.ABBytes < 0 || m.BAPackets < 0 || m.BABytes < 0 || f.Last > at(8).UnixMilli() || f.Start > f.Last {
			t.Fatalf("%+v", f)
		}
	}
	if len(r.meters.sources) > 0 {
		r.meters.report(at(8))
	}
	if n := r.Counters(); n.Malformed < 0 || n.Missing < 0 {
		t.Fatalf("%+v", n)
	}
}

// sized puts the length before datagrams.
func sized(all ...[]byte) (b []byte) {
	for _, d := range all {
		b = append(append(b, byte(len(d)>>8), byte(len(d))), d...)
	}
	return b
}

func FuzzSFlow(f *testing.F) {
	for _, d := range datagrams(f, "ovs-sflow")[:4] {
		f.Add(sized(d))
	}
	f.Add(sized(streamS()))
	f.Add(sized(sflowDatagram(1, 1, structure(expandedFlowSample, xdr(1, 0, 4, 256, 1000, 9, 0, 4, 0, 3, 1), raw(frame(true, 500), 500)))))
	f.Fuzz(func(t *testing.T, data []byte) { fuzzed(t, offSFlow, data) })
}

func FuzzNetflow5(f *testing.F) {
	for _, name := range []string{"softflowd-5", "ovs-netflow5"} {
		f.Add(sized(datagrams(f, name)...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4 {
			data[2], data[3] = 0, netflow5
		}
		fuzzed(t, offNetflow, data)
	})
}

func FuzzNetflow9(f *testing.F) {
	for _, name := range []string{"softflowd-9", "softflowd-9-sampled"} {
		f.Add(sized(datagrams(f, name)...))
	}
	f.Add(sized(stream9(netflow9)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4 {
			data[2], data[3] = 0, netflow9
		}
		fuzzed(t, offNetflow, data)
	})
}

func FuzzIPFIX(f *testing.F) {
	for _, name := range []string{"softflowd-ipfix", "softflowd-biflow"} {
		f.Add(sized(datagrams(f, name)...))
	}
	all := datagrams(f, "ovs-ipfix")
	f.Add(sized(all[0], all[1], all[20], all[21]))
	f.Add(sized(stream9(ipfix)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 4 {
			data[2], data[3] = 0, ipfix
		}
		fuzzed(t, offNetflow, data)
	})
}
