package flow

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"
)

// between makes a frame one between two hosts of the recordings from which the identifiers below are.
func between(proto byte, header []byte) []byte {
	b := slices.Concat([]byte{0x6e, 0x6e, 0xb0, 0xab, 0x41, 0x4e, 0x36, 0x56, 0x9c, 0xa6, 0xdd, 0xf3, 8, 0},
		[]byte{0x45, 0, 0, byte(20 + len(header)), 0, 0, 0, 0, 64, proto, 0, 0, 10, 99, 0, 1, 10, 99, 0, 2}, header)
	return b
}

// TestIdentifiers: those that the public software gave to the same packets, in both directions.
func TestIdentifiers(t *testing.T) {
	udp := make([]byte, 8+5)
	copy(udp, []byte{4444 >> 8, 4444 & 255, 5555 >> 8, 5555 & 255, 0, 13})
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint32(tcp, 33848<<16|8888)
	tcp[12] = 5 << 4
	arp := slices.Concat(make([]byte, 12), []byte{8, 6, 0, 1, 8, 0, 6, 4}, make([]byte, 22))
	const start = 1795395009944
	for _, c := range []struct {
		name         string
		data         []byte
		l3, id, uuid string
	}{
		{name: "UDP", data: between(17, udp), l3: "4f06744493b33567", id: "d162328a32247338", uuid: "9452595d6e2f33ae"},
		{name: "TCP", data: between(6, tcp), l3: "65fd555326024115", id: "ac3866f333c41948"},
		{name: "echo", data: between(1, []byte{8, 0, 0, 0, 0, 77, 0, 1}), l3: "dbcbfe1c723b69af", id: "aa344daf5dbacc7d"},
		{name: "no network layer", data: arp, l3: "ef46db3751d8e999"},
	} {
		reverse := slices.Clone(c.data)
		copy(reverse, c.data[6:12])
		copy(reverse[6:], c.data[:6])
		if c.name != "no network layer" {
			copy(reverse[26:], c.data[30:34])
			copy(reverse[30:], c.data[26:30])
		}
		switch c.name {
		case "echo":
			reverse[34] = 0
		case "UDP", "TCP":
			copy(reverse[34:], c.data[36:38])
			copy(reverse[36:], c.data[34:36])
		}
		for _, data := range [][]byte{c.data, reverse} {
			table := NewTable(Options{NodeTID: "69ad7581-51e8-5ab8-94ab-47c496d65380"})
			table.Packets([]Packet{{Data: data, Length: len(data), Time: start * int64(time.Millisecond)}})
			table.Each(func(f *Flow) bool {
				if f.L3TrackingID != c.l3 || c.id != "" && f.TrackingID != c.id || c.uuid != "" && f.UUID != c.uuid || f.Start != start {
					t.Errorf("%s: %+v", c.name, f)
				}
				return true
			})
			if table.Len() != 1 {
				t.Errorf("%s: %d flows", c.name, table.Len())
			}
		}
	}
	for id, want := range map[uint64]string{0: "0", 0xa: "a", 0x10: "10", 0x0fedcba987654321: "fedcba987654321", 1<<64 - 1: "ffffffffffffffff"} {
		if got := string(hexID(nil, id)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
