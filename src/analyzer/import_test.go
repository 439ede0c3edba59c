package analyzer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"skydive/src/flow"
	"skydive/src/wire"
)

// TestImport: flows that come from no agent are stored and told to subscribers, all of them, however small the queues are.
func TestImport(t *testing.T) {
	s := newFlowServer(t, FlowsOptions{MaxBuffer: 2000, Delay: 20 * time.Millisecond})
	sub := subscribe(t, s, "s1", wire.JSON, "flow")
	const n = 50000
	err := s.flows.Import(t.Context(), func(emit func(*flow.Flow)) error {
		f := &flow.Flow{Start: 1, Last: 2, Metric: flow.Metric{ABPackets: 1}}
		for i := range n {
			f.UUID = fmt.Sprintf("%x", i+1) // the record is used again
			emit(f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "flows in the store", func() error {
		if total, different := s.store.count(); total != n || different != n {
			return fmt.Errorf("%d flows, %d different", total, different)
		}
		return nil
	})
	told := 0
	for told < n {
		var flows []json.RawMessage
		if m := sub.next(t); json.Unmarshal(m.Obj, &flows) != nil || len(flows) == 0 {
			t.Fatalf("%+v", m)
		}
		told += len(flows)
	}
	if told != n {
		t.Errorf("subscribers were told of %d flows", told)
	}
	if lost := s.flows.Status().Lost; len(lost) != 0 {
		t.Errorf("lost: %v", lost)
	}

	failed := errors.New("breaks off")
	if err := s.flows.Import(t.Context(), func(emit func(*flow.Flow)) error {
		emit(&flow.Flow{UUID: "last"})
		return failed
	}); !errors.Is(err, failed) {
		t.Error(err)
	}
	until(t, "what came before", func() error {
		if total, _ := s.store.count(); total != n+1 {
			return fmt.Errorf("%d flows", total)
		}
		return nil
	})

	// A store that hangs does not hang the import for ever, but as long as who asks waits.
	hold := make(chan struct{})
	s.store.mu.Lock()
	s.store.hold = hold
	s.store.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	err = s.flows.Import(ctx, func(emit func(*flow.Flow)) error {
		for i := range n {
			if i == n/2 {
				cancel()
			}
			emit(&flow.Flow{UUID: fmt.Sprint(i)})
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(hold)

	s.store.fail(errors.New("disk is full"))
	var refused *RefusedError
	until(t, "refusal", func() error {
		err = s.flows.Import(t.Context(), func(emit func(*flow.Flow)) error { emit(&flow.Flow{UUID: "x"}); return nil })
		if !errors.As(err, &refused) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	if refused.Status() != 503 || refused.Error() != "flows are not stored: disk is full" {
		t.Error(refused)
	}
}

// TestImportForNobody: flows that nobody would see are refused.
func TestImportForNobody(t *testing.T) {
	f := NewFlows(FlowsOptions{Intake: endpoint("/i"), Feed: endpoint("/f")})
	var refused *RefusedError
	if err := f.Import(t.Context(), nil); !errors.As(err, &refused) || refused.Status() != 503 {
		t.Error(err)
	}
}
