package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/resource"
)

// fake is a source that a test drives.
type fake struct {
	Request
	*world
	mu       sync.Mutex
	counters Counters
	end      chan error
}

// world is what fake sources meet, and what comes out of a Manager.
type world struct {
	mu        sync.Mutex
	made      []*fake
	open      error // of the next sources
	panic     bool
	published map[string][]field.List
	flows     int
	stats     []flow.Stats
	log       strings.Builder
	m         *Manager
}

func (f *fake) Run(ctx context.Context, up func(field.Object)) error {
	f.world.mu.Lock()
	open, bad := f.open, f.panic
	f.world.mu.Unlock()
	if bad {
		panic("bad source")
	}
	if open != nil {
		return open
	}
	up(field.Make("PCAPSocket", "here"))
	select {
	case err := <-f.end:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (f *fake) Counters() Counters {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counters
}

func (f *fake) count(c Counters) {
	f.mu.Lock()
	f.counters = c
	f.mu.Unlock()
}

func (w *world) Flow(*flow.Flow)    { w.mu.Lock(); w.flows++; w.mu.Unlock() }
func (w *world) Stats(s flow.Stats) { w.mu.Lock(); w.stats = append(w.stats, s); w.mu.Unlock() }
func (w *world) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(b)
}

// last returns the last source that was made.
func (w *world) last() *fake {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.made[len(w.made)-1]
}

func (w *world) fails(err error) { w.mu.Lock(); w.open = err; w.mu.Unlock() }

// shown returns what a node shows now, and how often that was published.
func (w *world) shown(node string) (field.List, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.published[node]
	if len(all) == 0 {
		return nil, 0
	}
	return all[len(all)-1], len(all)
}

// expect checks a key of the only capture of a node.
func (w *world) expect(t *testing.T, node, key string, want field.Value) {
	t.Helper()
	pass(2 * publishEvery)
	synctest.Wait()
	list, _ := w.shown(node)
	if len(list) != 1 {
		t.Fatalf("%d captures are shown: %v", len(list), list)
	}
	if got, _ := list[0].(field.Object).Get(key); got != want {
		t.Fatalf("%s is %v, want %v, of %v", key, got, want, list[0])
	}
}

// inWorld runs a Manager with fake sources in a bubble of time.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{published: map[string][]field.List{}}
		make := func(r Request) Source {
			f := &fake{Request: r, world: w, end: make(chan error, 1)}
			w.mu.Lock()
			w.made = append(w.made, f)
			w.mu.Unlock()
			return f
		}
		w.m = New(Options{
			Kinds: map[string]Kind{
				"afpacket": {New: make, Several: true, Interface: true}, "pcap": {New: make, Several: true, Interface: true},
				"pcapsocket": {New: make}, "ovsmirror": {New: make, Several: true, Traffic: true}, "ovsipfix": {New: make, Exports: true},
			},
			Sink: w, Excluded: []string{"192.0.2.1:8082", "[2001:db8::1]:8082"}, Limit: 5,
			Flow: flow.Options{MaxEntries: 1000, Update: time.Minute, Expire: 10 * time.Minute},
			Log:  slog.New(slog.NewTextHandler(w, nil)),
			Publish: func(node string, l field.List) {
				w.mu.Lock()
				w.published[node] = append(w.published[node], l)
				w.mu.Unlock()
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := background(func() { _ = w.m.Run(ctx) })
		synctest.Wait()
		test(t, w)
		cancel()
		<-done
	})
}

// pass lets so much time of the bubble pass, which takes none of ours.
func pass(d time.Duration) { <-time.After(d) }

func background(fn func()) chan struct{} {
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	return done
}

func eth0() Node {
	return Node{ID: "n1", TID: "t1", Name: "eth0", Type: "veth", EncapType: "ether", IfIndex: 3, Up: true}
}

func asked(id string) resource.Capture {
	return resource.Capture{Identity: resource.Identity{UUID: id}, Name: "mine", BPFFilter: "icmp"}
}

// frames are UDP packets of a number of flows.
func frames(flows int) []flow.Packet {
	batch := make([]flow.Packet, flows)
	for i := range batch {
		f := make([]byte, 60)
		copy(f, []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, byte(i >> 8), byte(i), 10, 0, 0, 1, 0, 7, 0, 9, 0, 26})
		batch[i] = flow.Packet{Data: f, Length: 60, Time: time.Now().UnixNano()}
	}
	return batch
}

func TestLifeOfACapture(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		begin := time.Now()
		if err := w.m.Start(eth0(), asked("c1")); err != nil {
			t.Fatal(err)
		}
		w.expect(t, "n1", "State", "active")
		for key, want := range map[string]field.Value{
			"ID": "c1", "Name": "mine", "BPFFilter": "icmp", "Type": "afpacket", "Error": nil, "PCAPSocket": "here", "Since": begin.UnixMilli(),
			"PacketsReceived": int64(0), "PacketsDropped": int64(0), "PacketsIfDropped": int64(0), "PacketsFiltered": nil,
		} {
			w.expect(t, "n1", key, want)
		}
		if err := w.m.Start(eth0(), asked("c1")); err != nil || len(w.made) != 1 {
			t.Fatalf("started again: %v, %d sources", err, len(w.made))
		}
		w.last().Intake.Packets(frames(9))
		cut := frames(10)[9:]
		cut[0].Data = cut[0].Data[:30]
		w.last().Intake.Packets(cut)
		w.last().count(Counters{Seen: 50, Received: 12, Dropped: 2, Malformed: 1})
		pass(2 * time.Second)
		w.expect(t, "n1", "PacketsReceived", int64(12))
		w.expect(t, "n1", "PacketsDropped", int64(2))
		w.expect(t, "n1", "PacketsMalformed", int64(1))
		w.expect(t, "n1", "PacketsSeen", int64(50))
		w.expect(t, "n1", "PacketsFiltered", int64(38))
		w.expect(t, "n1", "PacketsTruncated", int64(1))

		_, before := w.shown("n1")
		pass(20 * time.Second)
		if _, after := w.shown("n1"); after != before {
			t.Fatalf("published %d times without a change", after-before)
		}
		if w.flows != 0 || len(w.m.Tables()) != 1 {
			t.Fatalf("%d flows, %d tables", w.flows, len(w.m.Tables()))
		}
		if s := w.stats[len(w.stats)-1]; s.CaptureID != "c1" || s.PacketsReceived != 10 || s.PacketsDropped != 2 || s.FlowCount != 10 {
			t.Fatalf("%+v", s)
		}
		if err := w.m.Stop("n1", "c1"); err != nil || w.flows != 10 {
			t.Fatalf("stopped: %v, %d flows", err, w.flows)
		}
		pass(2 * publishEvery)
		synctest.Wait()
		if list, _ := w.shown("n1"); list != nil {
			t.Fatalf("still shown: %v", list)
		}
		if err := w.m.Stop("n1", "c1"); !errors.Is(err, ErrNotFound) {
			t.Fatalf("stopped twice: %v", err)
		}
	})
}

func TestFailureIsToldOnceAndTriedAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.fails(errors.New("no memory"))
		begin := time.Now()
		if err := w.m.Start(eth0(), asked("c1")); err != nil {
			t.Fatal(err)
		}
		w.expect(t, "n1", "State", "error")
		w.expect(t, "n1", "Error", "no memory")
		pass(200 * time.Second)
		w.expect(t, "n1", "Since", begin.UnixMilli())
		if n := len(w.made); n != 9 { // at 0 1 3 7 15 31 63 123 183
			t.Fatalf("%d attempts", n)
		}
		if n := strings.Count(w.log.String(), "no memory"); n != 1 {
			t.Fatalf("logged %d times:\n%s", n, w.log.String())
		}
		w.fails(nil)
		pass(time.Minute)
		w.expect(t, "n1", "State", "active")
		w.expect(t, "n1", "Error", nil)

		// What earlier sources counted is kept.
		w.last().count(Counters{Received: 5})
		w.last().end <- errors.New("broke")
		w.expect(t, "n1", "State", "error")
		pass(2 * time.Minute)
		w.last().count(Counters{Received: 2})
		pass(2 * time.Second)
		w.expect(t, "n1", "PacketsReceived", int64(7))

		w.mu.Lock()
		w.panic = true
		w.mu.Unlock()
		w.last().end <- errors.New("broke")
		pass(2 * time.Second)
		w.expect(t, "n1", "Error", "panic: bad source")
	})
}

func TestWaitsForTheInterface(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.fails(ErrDown)
		n := eth0()
		n.Up = false
		if err := w.m.Start(n, asked("c1")); err != nil {
			t.Fatal(err)
		}
		w.expect(t, "n1", "State", "waiting")
		w.expect(t, "n1", "Error", "interface is down")
		w.fails(nil)
		w.m.Update(eth0())
		w.expect(t, "n1", "State", "active") // at once

		w.fails(ErrDown)
		w.last().end <- ErrDown
		w.expect(t, "n1", "State", "waiting")
		w.fails(nil)
		pass(retryDownFirst) // nobody tells
		w.expect(t, "n1", "State", "active")

		// The interface is elsewhere now.
		n = eth0()
		n.NetNS, n.IfIndex = "/run/netns/x", 9
		w.m.Update(n)
		w.expect(t, "n1", "State", "active")
		if got := w.last().Node; got.NetNS != n.NetNS || got.IfIndex != 9 {
			t.Fatalf("%+v", got)
		}

		_, before := w.shown("n1")
		w.m.Gone("n1")
		pass(5 * time.Second)
		if _, after := w.shown("n1"); after != before || len(w.m.Tables()) != 0 {
			t.Fatalf("published %d times after the node was gone", after-before)
		}
	})
}

func TestRefusals(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for _, c := range []struct {
			name   string
			change func(*Node, *resource.Capture)
			status int
			reason string
		}{
			{"node type", func(n *Node, _ *resource.Capture) { n.Type = "netns" }, 400, `nodes of type "netns" cannot be captured`},
			{"default of the type", func(n *Node, _ *resource.Capture) { n.Type = "ovsbridge" }, 400, "captures of type ovssflow are not available in this agent"},
			{"capture type", func(_ *Node, c *resource.Capture) { c.Type = "sflow" }, 400, "captures of type sflow are not available in this agent"},
			{"no interface", func(n *Node, _ *resource.Capture) { n.IfIndex = 0 }, 400, "node eth0 is no interface of the kernel; what a switch keeps to itself is captured at its port (Type ovsport)"},
			{"filter", func(_ *Node, c *resource.Capture) { c.BPFFilter = "host (" }, 400, "filter: "},
			{"target type", func(_ *Node, c *resource.Capture) { c.TargetType, c.Target = "netflowv9", "h:1" }, 400, `targets of type "netflowv9" are not known`},
			{"second pcapsocket", func(_ *Node, c *resource.Capture) { c.Type, c.UUID = "pcapsocket", "c3" }, 409, "capture c2 of type pcapsocket is on this node already, and only one can be"},
		} {
			if c.status == 409 {
				second := asked("c2")
				second.Type = "pcapsocket"
				if err := w.m.Start(eth0(), second); err != nil {
					t.Fatal(err)
				}
			}
			n, r := eth0(), asked("c1")
			c.change(&n, &r)
			var refused *RefusedError
			if err := w.m.Start(n, r); !errors.As(err, &refused) || refused.Status != c.status || !strings.HasPrefix(refused.Reason, c.reason) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		for i := range 4 {
			if err := w.m.Start(eth0(), asked(fmt.Sprint("more", i))); err != nil {
				t.Fatal(err)
			}
		}
		var refused *RefusedError
		if err := w.m.Start(eth0(), asked("c9")); !errors.As(err, &refused) || refused.Status != 507 {
			t.Fatalf("one too many: %v", err)
		}
	})
}

func TestTypeThatDoesNotFitIsTheUsualOne(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for asked, want := range map[string]string{"": "afpacket", "pcap": "pcap", "ovsmirror": "afpacket", "pcapsocket": "pcapsocket"} {
			if got, _, err := w.m.resolve("tuntap", asked); got != want || err != nil {
				t.Errorf("%q: %q, %v", asked, got, err)
			}
		}
		if got := w.m.Types(); !slices.Equal(got, []string{"afpacket", "ovsipfix", "ovsmirror", "pcap", "pcapsocket"}) {
			t.Errorf("types %v", got)
		}
	})
}

func TestOwnTrafficIsLeftOut(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for _, c := range []struct{ typ, expr, want string }{
			{"afpacket", "tcp or udp", "((tcp or udp) and not ((host 192.0.2.1) and (port 8082))) and not ((host 2001:db8::1) and (port 8082))"},
			{"afpacket", " ", "(not ((host 192.0.2.1) and (port 8082))) and not ((host 2001:db8::1) and (port 8082))"},
			{"pcapsocket", "tcp", "tcp"},
			{"pcapsocket", "", "<nil>"},
		} {
			r := asked("c1")
			r.Type, r.BPFFilter = c.typ, c.expr
			if err := w.m.Start(eth0(), r); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := fmt.Sprint(w.last().Filter); got != c.want {
				t.Errorf("%s %q: %s", c.typ, c.expr, got)
			}
			if err := w.m.Stop("n1", "c1"); err != nil {
				t.Fatal(err)
			}
		}
	})
}
