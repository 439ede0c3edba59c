package wire

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"skydive/src/flow"
)

func packets() *Packets {
	return &Packets{NodeTID: "t", Name: "eth0", NetNS: "/run/netns/n", Link: 101, Lost: 7, Packets: []flow.Packet{
		{Data: []byte{1, 2, 3}, Length: 1500, Time: 1234567890123456789}, {Data: bytes.Repeat([]byte{0x55}, 300), Length: 300, Time: 1},
	}}
}

// TestPackets: packets go through an envelope unchanged.
func TestPackets(t *testing.T) {
	for _, want := range []*Packets{packets(), {Name: "lo", Lost: 3}, {}} {
		m := &Message{Namespace: NamespaceCapture, Type: TypePackets, UUID: "u", Status: 200, Format: FormatProtobuf, Body: want}
		m, err := NewDecoder().Decode(bytes.NewReader(m.Append(nil, Protobuf)), Protobuf)
		if err != nil || m.Type != TypePackets || m.UUID != "u" {
			t.Fatalf("%+v: %v", m, err)
		}
		var got Packets
		if err := got.UnmarshalProto(m.Obj); err != nil || !reflect.DeepEqual(&got, want) {
			t.Errorf("%+v, want %+v: %v", got, want, err)
		}
	}
}

func TestBadPackets(t *testing.T) {
	for _, b := range []string{"\x32\x01", "\x0a\x05ab", "\x2a\x01\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x32\x03\x09\x01\x02", "\x80"} {
		if err := new(Packets).UnmarshalProto([]byte(b)); !errors.Is(err, errPackets) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

func FuzzPackets(f *testing.F) {
	whole := packets().AppendJSON(nil)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte{0x32, 0x03, 0x09, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Packets
		if p.UnmarshalProto(b) != nil {
			return
		}
		if p.Lost < 0 {
			t.Fatalf("%+v", p)
		}
		for _, k := range p.Packets {
			if k.Length < len(k.Data) {
				t.Fatalf("%+v", k)
			}
		}
		var again Packets
		if err := again.UnmarshalProto(p.AppendJSON(nil)); err != nil || len(again.Packets) != len(p.Packets) || again.Lost != p.Lost {
			t.Fatalf("%+v, want %+v: %v", again, p, err)
		}
	})
}
