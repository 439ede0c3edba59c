package flow

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func archiveQuery() *ArchiveQuery {
	return &ArchiveQuery{
		From: 1700000000000, To: 1700000060000, Since: 1699999940000,
		Search: Search{Filter: AnyText("NodeTID", "n1", "n2"), From: 2, To: 12, Sort: true, Order: Descending}, Aggregate: Aggregate{Latest},
		Flows: []*Flow{{UUID: "00000000000000a1", Start: 1700000000001}, {UUID: "00000000000000a2"}}, Token: "t1", Part: 3,
	}
}

func archiveReply() *ArchiveReply {
	return &ArchiveReply{
		Flows: []*Flow{{UUID: "00000000000000a1", NodeTID: "n1", Start: 5, Last: 7, LastUpdateMetric: &Metric{ABPackets: 1, Start: 6, Last: 7}}},
		Series: []ArchiveSeries{
			{UUID: "00000000000000a1", Metrics: []Metric{{ABPackets: 1, ABBytes: 60, Start: 6, Last: 7}, {}}},
			{UUID: "00000000000000a2", Packets: []RawPacket{{Timestamp: 6, Index: 1, Data: []byte{1, 2, 3}, LinkType: 1}}},
		},
		Total: &Total{Count: 2, Metric: Metric{ABPackets: 9}}, Error: "why not", Token: "t1", Parts: 4,
	}
}

// sameBytes compares with what was written when the format was made: analyzers of different versions talk to each other.
func sameBytes(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text := hex.EncodeToString(got); text != strings.TrimSpace(string(want)) {
		t.Errorf("%s:\n got %s\nwant %s", name, text, want)
	}
}

func TestArchiveMessages(t *testing.T) {
	q := archiveQuery()
	b := q.AppendProto(nil)
	sameBytes(t, "archive_query.hex", b)
	var gotQuery ArchiveQuery
	if err := gotQuery.UnmarshalProto(b); err != nil || !bytes.Equal(gotQuery.AppendProto(nil), b) || gotQuery.Search.To != 12 ||
		gotQuery.Flows[0].UUID != q.Flows[0].UUID || gotQuery.Flows[0].Start != q.Flows[0].Start || len(gotQuery.Flows) != 2 {
		t.Errorf("%+v %v", gotQuery, err)
	}
	r := archiveReply()
	b = r.AppendProto(nil)
	sameBytes(t, "archive_reply.hex", b)
	var gotReply ArchiveReply
	if err := gotReply.UnmarshalProto(b); err != nil || !reflect.DeepEqual(&gotReply, r) {
		t.Errorf("%+v %v", gotReply, err)
	}

	for name, b := range map[string][]byte{
		"an unknown question": {0x48, 1}, "a metric that is none": {0x28, 4}, "text for a search": {0x20, 1},
		"too many flows": bytes.Repeat([]byte{0x32, 0}, archiveElements+1), "cut": q.AppendProto(nil)[:20],
	} {
		if err := new(ArchiveQuery).UnmarshalProto(b); err == nil {
			t.Errorf("query: %s passes", name)
		}
	}
	for name, b := range map[string][]byte{
		"less than no parts": {0x30, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, "too many flows": bytes.Repeat([]byte{0x0a, 0}, archiveElements+1),
		"too many series": bytes.Repeat([]byte{0x12, 0}, archiveElements+1), "too many metrics": bytes.Repeat([]byte{0x12, 6, 0x12, 0, 0x12, 0, 0x1a, 0}, archiveElements/4+1),
	} {
		if err := new(ArchiveReply).UnmarshalProto(b); err == nil {
			t.Errorf("reply: %s passes", name)
		}
	}
}

// TestArchiveParts: what goes in comes out, in parts of which each can be read.
func TestArchiveParts(t *testing.T) {
	var p ArchiveParts
	if parts := p.Parts(); len(parts) != 1 || len(parts[0]) != 0 {
		t.Errorf("%v", parts)
	}
	const flows, series = 40_000, 300
	for i := range flows {
		p.Flow(&Flow{UUID: fmt.Sprint(i), LayersPath: strings.Repeat("x", i%300)})
	}
	for i := range series {
		p.Series(fmt.Sprint(i), make([]Metric, i*3), nil)
		p.Series(fmt.Sprint(i), nil, []RawPacket{{Index: 1, Data: make([]byte, 65536)}, {Index: 2}})
	}
	p.Series("large", nil, []RawPacket{{Data: make([]byte, 3*archivePart)}})
	var gotFlows, gotMetrics, gotPackets, size int
	for i, part := range p.Parts() {
		var r ArchiveReply
		b := AppendArchivePart(nil, part, "token", len(p.Parts()))
		if err := r.UnmarshalProto(b); err != nil || r.Token != "token" || int(r.Parts) != len(p.Parts()) {
			t.Fatalf("part %d: %v", i, err)
		}
		if size += len(part); len(part) > archivePart && len(r.Series) != 1 {
			t.Errorf("part %d has %d bytes", i, len(part))
		}
		for _, f := range r.Flows {
			if f.UUID != fmt.Sprint(gotFlows) {
				t.Fatalf("flow %s follows %d", f.UUID, gotFlows)
			}
			gotFlows++
		}
		for _, s := range r.Series {
			gotMetrics += len(s.Metrics)
			gotPackets += len(s.Packets)
		}
	}
	if gotFlows != flows || gotMetrics != 3*series*(series-1)/2 || gotPackets != 2*series+1 || size != p.Size() {
		t.Errorf("%d flows, %d metrics, %d packets, %d bytes of %d", gotFlows, gotMetrics, gotPackets, size, p.Size())
	}
}

// FuzzArchive: whatever comes, reading it ends well, and what could be read is written as it would be again.
func FuzzArchive(f *testing.F) {
	f.Add(archiveQuery().AppendProto(nil))
	f.Add(archiveReply().AppendProto(nil))
	f.Add([]byte{0x12, 0x02, 0x12, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		var q, again ArchiveQuery
		if q.UnmarshalProto(b) == nil {
			out := q.AppendProto(nil)
			if err := again.UnmarshalProto(out); err != nil || !bytes.Equal(again.AppendProto(nil), out) {
				t.Errorf("%x: %v", out, err)
			}
		}
		var r, same ArchiveReply
		if r.UnmarshalProto(b) == nil {
			out := r.AppendProto(nil)
			if err := same.UnmarshalProto(out); err != nil || !bytes.Equal(same.AppendProto(nil), out) {
				t.Errorf("%x: %v", out, err)
			}
		}
	})
}
