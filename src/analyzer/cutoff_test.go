package analyzer

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"testing"

	"skydive/src/agent"
)

// TestSenderCutOff: an agent that reaches no analyzer loses only what its queue has no room for, says how much that was, and the rest
// arrives once there is one again.
func TestSenderCutOff(t *testing.T) {
	for _, protocol := range []string{agent.FlowUDP, agent.FlowWebSocket} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String() // free for UDP, most likely
		s := newFlowServer(t, FlowsOptions{Listen: addr})
		l.Close()
		tap := newTapAt(t, addr, s.addr)
		const memory = 1 << 20
		h := newFlowHost(t, "h1", protocol, memory, addr)
		h.sender.Flow(record(0))
		arrived(t, s.store, 1)
		s.stop()
		until(t, "the cut", func() error {
			if st := h.sender.Status(); st.State == "sending" {
				return fmt.Errorf("%+v", st)
			}
			return nil
		})
		const put = 20000
		for i := range put {
			h.sender.Flow(record(1 + i))
		}
		var shown struct { // as /api/status has it
			Queued int64
			Lost   map[string]int64
		}
		text, err := json.Marshal(h.sender.Status())
		if err != nil || json.Unmarshal(text, &shown) != nil {
			t.Fatal(string(text), err)
		}
		lost := shown.Lost["queue full"]
		if again := shown.Queued + lost - put; lost == 0 || len(shown.Lost) != 1 || again < 0 || again > 1 { // the first may go once more
			t.Errorf("%s: %s of %d", protocol, text, put)
		}
		if shown.Queued*250 < memory/2 {
			t.Errorf("%s: only %d records wait in %d bytes", protocol, shown.Queued, memory)
		}
		s = newFlowServer(t, FlowsOptions{Listen: addr})
		tap.to(s.addr)
		seen := make(map[string]bool)
		until(t, "what waited", func() error {
			if collect(s.store, seen); !seen[record(1).UUID] || h.sender.Status().Queued != 0 {
				return errors.New("not all")
			}
			delete(seen, record(0).UUID)
			if len(seen) != int(put-lost) {
				return fmt.Errorf("%d arrived; %+v", len(seen), h.sender.Status())
			}
			return nil
		})
		if st := h.sender.Status(); st.State != "sending" || st.Lost["queue full"] != lost || len(st.Lost) != 1 {
			t.Errorf("%s: %+v", protocol, st)
		}
		h.stop()
		s.stop()
	}
}
