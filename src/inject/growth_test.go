package inject

import (
	"testing"

	"skydive/src/resource"
)

// TestGrowthAfterTheLast: what would be added to the packet after the last one takes no memory.
func TestGrowthAfterTheLast(t *testing.T) {
	f, err := newForger(&resource.InjectionRequest{Type: "icmp4", SrcIP: "10.0.0.1", DstIP: "10.0.0.2", Count: 1, IncrementPayload: 1 << 24}, false, 1500)
	if err != nil {
		t.Fatal(err)
	}
	f.next()
	if n := len(f.payload); n > 2*maxIP {
		t.Errorf("%d bytes of payload", n)
	}
}
