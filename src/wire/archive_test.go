package wire

import (
	"bytes"
	"slices"
	"testing"
)

// TestBytes: bytes come out as they went in, in either protocol, and what is no such message says so.
func TestBytes(t *testing.T) {
	for _, want := range [][]byte{{}, {0}, {0xff, 0xfe, 0xfd, 0xfc}, bytes.Repeat([]byte("skydive"), 1000)} {
		for _, m := range []*Message{{Body: Base64(want)}, {Format: FormatProtobuf, Obj: want}} {
			for _, p := range []Protocol{JSON, Protobuf} {
				if p == JSON && m.Format == FormatProtobuf {
					continue // protobuf is no JSON
				}
				m.Namespace, m.Type, m.UUID = NamespaceArchive, TypeArchiveTotal, "u"
				got, err := NewDecoder().Decode(bytes.NewReader(m.Append(nil, p)), p)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := got.Bytes(); err != nil || !slices.Equal(b, want) {
					t.Errorf("%s: %x, %v, want %x", p, b, err, want)
				}
			}
		}
	}
	for _, obj := range []string{"", "null", `"`, "1", `{}`, `"not base64"`, `"AA"`} {
		if b, err := (&Message{Obj: []byte(obj)}).Bytes(); err == nil {
			t.Errorf("%q is %x", obj, b)
		}
	}
}
