package flow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// recorded are raw packets that a public analyzer showed, and the file that it made of them.
func recordedPackets(t *testing.T) (packets []RawPacket, file []byte) {
	t.Helper()
	data, err := os.ReadFile("testdata/wire-rawpackets.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct {
		Packets []RawPacket
		Pcap    string
	}
	if err := json.Unmarshal(data, &recorded); err != nil {
		t.Fatal(err)
	}
	return recorded.Packets, unhex(t, recorded.Pcap)
}

func TestPcapIsThatOfPublicAnalyzers(t *testing.T) {
	packets, want := recordedPackets(t)
	var got bytes.Buffer
	if err := WritePcap(&got, packets); err != nil {
		t.Fatal(err)
	}
	// The public one says that every packet had 4096 bytes.
	r, err := pcapgo.NewReader(bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := pcapgo.NewReader(&got)
	if err != nil {
		t.Fatal(err)
	}
	if ours.LinkType() != r.LinkType() || ours.Snaplen() != r.Snaplen() {
		t.Errorf("link type %v, snaplen %d", ours.LinkType(), ours.Snaplen())
	}
	n := 0
	for ; ; n++ {
		data, _, err := r.ReadPacketData()
		if err == io.EOF {
			break
		}
		mine, info, err2 := ours.ReadPacketData()
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if !bytes.Equal(data, mine) {
			t.Errorf("packet %d is %x, want %x", n, mine, data)
		}
		if info.Timestamp.UnixMilli() != packets[n].Timestamp || info.Length < len(data) {
			t.Errorf("packet %d: %+v", n, info)
		}
	}
	if n != len(packets) || n < 3 {
		t.Errorf("%d packets, want %d", n, len(packets))
	}
	if _, _, err := ours.ReadPacketData(); err != io.EOF {
		t.Errorf("after the last packet: %v", err)
	}
}

func TestPcapOfMixedPackets(t *testing.T) {
	ip4 := []byte{0x45, 0, 0, 200, 0, 0, 0, 0}
	ip6 := []byte{0x60, 0, 0, 0, 0, 100, 17, 64}
	eth := append(make([]byte, 12), 0x81, 0x00, 0, 5, 0x08, 0x00, 0x45, 0, 1, 0)
	for _, c := range []struct {
		name    string
		packets []RawPacket
		link    int
		want    string
	}{
		{"nothing", nil, 1, ""},
		{"unknown", []RawPacket{{LinkType: 9, Data: eth}}, 1, ""},
		{"raw IP", []RawPacket{{LinkType: 229, Data: ip6, Timestamp: 2}, {LinkType: 228, Data: ip4, Timestamp: 1}}, 101, "8/200 8/140"},
		{"Ethernet wins", []RawPacket{{LinkType: 228, Data: ip4}, {LinkType: 1, Data: eth, Timestamp: 1700000000123}}, 1, "22/274"},
		{"short ones", []RawPacket{{LinkType: 1, Data: eth[:5]}, {LinkType: 1, Data: eth[:14]}, {LinkType: 1, Data: nil}, {LinkType: 1, Data: eth[:20]}}, 1, "5/5 14/14 0/0 20/20"},
	} {
		before := fmt.Sprint(c.packets)
		var out bytes.Buffer
		if err := WritePcap(&out, c.packets); err != nil {
			t.Fatal(err)
		}
		if before != fmt.Sprint(c.packets) {
			t.Errorf("%s: the packets were changed", c.name)
		}
		r, err := pcapgo.NewReader(&out)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if int(r.LinkType()) != c.link {
			t.Errorf("%s: link type %d", c.name, r.LinkType())
		}
		var got []string
		for {
			_, info, err := r.ReadPacketData()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			got = append(got, fmt.Sprintf("%d/%d", info.CaptureLength, info.Length))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %v, want %s", c.name, got, c.want)
		}
	}
}

func TestPcapng(t *testing.T) {
	var out bytes.Buffer
	w := NewPcapngWriter(&out)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	if out.Len() == 0 {
		t.Error("the header was held back")
	}
	const at = 1_700_000_000_123_456_789
	var all sync.WaitGroup
	for i := range 4 { // agents at once
		all.Go(func() {
			for j := range 500 {
				if err := w.Packet(fmt.Sprintf("eth%d", i), linkEthernet, at+int64(j), 1500, bytes.Repeat([]byte{byte(i)}, 14+j%7)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for _, err := range []error{w.Packet("tun0", linkRaw, at, 0, []byte{0x45}), w.Lost("eth1", linkEthernet, at, 77), w.Flush()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r, err := pcapgo.NewNgReader(&out, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for {
		data, info, err := r.ReadPacketData()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		in, err := r.Interface(info.InterfaceIndex)
		if err != nil {
			t.Fatal(err)
		}
		counts[in.Name]++
		switch in.Name {
		case "tun0":
			if in.LinkType != layers.LinkTypeRaw || info.Length != 1 || len(data) != 1 || data[0] != 0x45 || info.Timestamp.UnixNano() != at {
				t.Errorf("tun0: %+v %x", info, data)
			}
		default:
			i := in.Name[3] - '0'
			j := counts[in.Name] - 1
			if in.LinkType != layers.LinkTypeEthernet || info.Length != 1500 || !bytes.Equal(data, bytes.Repeat([]byte{i}, 14+j%7)) || info.Timestamp.UnixNano() != at+int64(j) {
				t.Fatalf("%s packet %d: %+v %x", in.Name, j, info, data)
			}
		}
	}
	if fmt.Sprint(counts) != "map[eth0:500 eth1:500 eth2:500 eth3:500 tun0:1]" {
		t.Errorf("got %v", counts)
	}
	for i := range r.NInterfaces() {
		in, _ := r.Interface(i)
		if in.Name == "eth1" && in.Statistics.PacketsDropped != 77 {
			t.Errorf("eth1 lost %d", in.Statistics.PacketsDropped)
		}
	}
}

type brokenWriter struct{ calls int }

func (w *brokenWriter) Write([]byte) (int, error) { w.calls++; return 0, io.ErrClosedPipe }

func TestPcapngToNobody(t *testing.T) {
	broken := &brokenWriter{}
	w := NewPcapngWriter(broken)
	if err := w.Start(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("start: %v", err)
	}
	for range 10_000 {
		if err := w.Packet("e", 1, 0, 0, make([]byte, 1000)); !errors.Is(err, io.ErrClosedPipe) {
			t.Fatalf("packet: %v", err)
		}
	}
	if broken.calls != 1 || cap(w.buf) > 4*blockBuffer {
		t.Errorf("%d writes, %d bytes kept", broken.calls, cap(w.buf))
	}
	if err := WritePcap(broken, []RawPacket{{LinkType: 1}}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("pcap: %v", err)
	}
}
