package ondemand

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/resource"
)

// place adds an interface that packets can be sent from and to.
func (l *lab) place(id, host string, n int, pairs ...any) {
	l.add(id, host, append([]any{
		"MAC", fmt.Sprintf("02:00:00:00:00:%02x", n), "IPV4", []string{fmt.Sprintf("10.0.0.%d/24", n)},
		"IPV6", []string{fmt.Sprintf("fe80::%x/64", n), fmt.Sprintf("2001:db8::%x/64", n)},
	}, pairs...)...)
}

func (l *lab) injection(i resource.Injection) {
	i.StartTime = time.Now()
	l.put("injectpacket", &i)
}

func (l *lab) sent(node string) (r resource.InjectionRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := json.Unmarshal([]byte(l.bodies[node]), &r); err != nil {
		l.t.Errorf("%s: %v", node, err)
	}
	return r
}

func injection(id string) resource.Injection {
	return resource.Injection{
		Identity: resource.Identity{UUID: id}, Src: "G.V().Has('Name',REGEX('s.*')).Sort('Name')", Dst: "G.V().Has('Name','d')", Type: "icmp4", Count: 2, Interval: 100,
	}
}

// Packets are sent once from each node, whatever happens to it later.
func TestInjectionIsDoneOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.place("s1", "h1", 1)
		l.place("s2", "h2", 2)
		l.place("twin", "h2", 2, "Name", "s2", "TID", "tid-s2")
		l.place("d", "h3", 3)
		e := NewInjections(l.options())
		l.run(e)
		l.injection(injection("i1"))
		asked := l.after(100 * time.Millisecond)
		if len(asked) != 2 {
			t.Fatal(asked)
		}
		if s, n := e.Status("i1", true); n != 2 || s.State != Active {
			t.Errorf("%d %+v", n, s)
		}
		a := l.sent("s1")
		if a.Mode != "unique" || a.ICMPID != 1 || a.TTL != 64 || a.Count != 2 || a.SrcIP != "10.0.0.1" || a.DstIP != "10.0.0.3" || a.SrcMAC.String() != "02:00:00:00:00:01" || a.DstMAC.String() != "02:00:00:00:00:03" {
			t.Errorf("%+v", a)
		}
		l.after(time.Second)
		if s, n := e.Status("i1", true); n != 0 || s.State != Done {
			t.Errorf("%d %+v", n, s)
		}
		// Nothing brings it back: not a change, not the interface coming back with its agent.
		l.edit("s1", "Name", "s1x")
		l.delete("s1")
		l.after(time.Second)
		l.add("new1", "h1", "Name", "s1", "TID", "tid-s1", "IPV4", []string{"10.0.0.1/24"}, "MAC", "02:00:00:00:00:01")
		expect(t, l.after(time.Minute))
		// Another interface that comes to match does its part, with another identifier.
		l.place("s3", "h1", 9)
		expect(t, l.after(100*time.Millisecond), "h1 Start s3 i1")
		if r := l.sent("s3"); r.ICMPID != 3 {
			t.Errorf("%+v", r)
		}
		l.remove("injectpacket", "i1")
		expect(t, l.after(time.Minute), "h1 Stop s3 i1")
		if e.mu.Lock(); len(e.entries)+len(e.byNode)+len(e.hosts) != 0 {
			t.Errorf("left: %v %v %v", e.entries, e.byNode, e.hosts)
		}
		e.mu.Unlock()
		if text := l.log.String(); text != "" {
			t.Error(text)
		}
	})
}

// What was stored before the engine began was done, or not, by another.
func TestInjectionsOfBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.place("s1", "h1", 1)
		l.place("d", "h3", 3)
		old := injection("old")
		l.put("injectpacket", &old)
		running := injection("running")
		l.put("injectpacket", &running)
		l.edit("s1", "PacketInjections", field.List{field.Make("ID", "running", "State", "active")})
		<-time.After(time.Minute) // of the bubble
		e := NewInjections(l.options())
		l.run(e)
		expect(t, l.after(time.Second))
		if s, _ := e.Status("old", true); s.State != Done {
			t.Errorf("%+v", s)
		}
		if s, n := e.Status("running", true); s.State != Active || n != 1 {
			t.Errorf("%+v", s)
		}
		l.remove("injectpacket", "running")
		expect(t, l.after(time.Second), "h1 Stop s1 running")
		l.injection(injection("new"))
		expect(t, l.after(time.Second), "h1 Start s1 new")
	})
}

func TestInjectionThatCannotBeSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add("s1", "h1")
		l.place("s2", "h2", 2)
		l.place("d", "h3", 3)
		l.mute["h2"] = true
		e := NewInjections(l.options())
		l.run(e)
		l.injection(injection("i1"))
		expect(t, l.after(5*time.Second), "h2 Start s2 i1")
		if s, _ := e.Status("i1", true); s.State != Failed || s.Error != "s1 on h1: No source IP in node" {
			t.Errorf("%+v", s)
		}
		// It may become possible.
		l.edit("s1", "IPV4", []string{"10.0.0.1/24"})
		l.edit("s1", "MAC", "02:00:00:00:00:01")
		expect(t, l.after(5*time.Second), "h1 Start s1 i1")
		// Who does not answer may have sent: nobody asks again.
		l.after(time.Minute)
		l.set(l.mute, "h2", false)
		expect(t, l.after(10*time.Minute))
		if s, _ := e.Status("i1", true); s.State != Failed || !strings.Contains(s.Error, "whether packets were sent is not known") {
			t.Errorf("%+v", s)
		}
		l.remove("injectpacket", "i1")
		expect(t, l.after(time.Second), "h2 Stop s2 i1")
	})
}

// An agent that never shows what it does is taken at its word.
func TestInjectionNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.place("s1", "h1", 1)
		l.place("d", "h3", 3)
		l.silent["s1"] = true
		e := NewInjections(l.options())
		l.run(e)
		i := injection("i1")
		i.Count, i.Interval = 60, 1000
		l.injection(i)
		expect(t, l.after(65*time.Second), "h1 Start s1 i1")
		if s := states(e, "i1"); s["s1"] != Active {
			t.Error(s)
		}
		expect(t, l.after(10*time.Second))
		if s := states(e, "i1"); s["s1"] != Done {
			t.Error(s)
		}
	})
}

func node(id string, pairs ...any) *graph.Node {
	return &graph.Node{Element: graph.Element{ID: id, Host: "h", Metadata: field.Make(append([]any{"Name", id, "Type", "veth"}, pairs...)...)}}
}

func TestResolve(t *testing.T) {
	src := node("s", "MAC", "02:00:00:00:00:01", "IPV4", []string{"169.254.0.1/16", "10.0.0.1/24"}, "IPV6", []string{"fe80::1/64", "2001:db8::1/64"},
		"RoutingTables", []map[string]any{{"Routes": []map[string]any{
			{"Prefix": "10.0.0.0/24", "NextHops": []map[string]any{{"IfIndex": 2}}},
			{"Prefix": "0.0.0.0/0", "NextHops": []map[string]any{{"IfIndex": 2, "IP": "10.0.0.254"}}},
		}}}, "Neighbors", []map[string]any{{"IP": "10.0.0.254", "MAC": "02:00:00:00:00:fe"}, {"IP": "10.0.0.7", "MAC": "02:00:00:00:00:07"}})
	dst := node("d", "MAC", "02:00:00:00:00:02", "IPV4", []string{"10.0.0.2/24"}, "IPV6", []string{"fe80::2/64"})
	vm := node("v", "MAC", "fe:00:00:00:00:03", "ExtID", map[string]any{"attached-mac": "fa:16:3e:00:00:03"},
		"Neutron", map[string]any{"IPV4": []string{"192.168.0.3"}}, "IPV4", []string{"10.0.0.3/24"})
	tun := node("t", "EncapType", "none", "IPV4", []string{"10.9.0.1"})
	bare := node("x")
	for _, c := range []struct {
		name     string
		edit     func(*resource.Injection)
		n        int
		src, dst *graph.Node
		want     string // "src ip port, dst ip port, id" or the error
	}{
		{"plain", nil, 0, src, dst, "02:00:00:00:00:01 10.0.0.1 1 > 02:00:00:00:00:02 10.0.0.2 0 id 1 ttl 64"},
		{"third node", nil, 2, src, dst, "02:00:00:00:00:01 10.0.0.1 1 > 02:00:00:00:00:02 10.0.0.2 0 id 3 ttl 64"},
		{"wraps, but never to 0", func(i *resource.Injection) { i.ICMPID = 65535 }, 1, src, dst, "02:00:00:00:00:01 10.0.0.1 1 > 02:00:00:00:00:02 10.0.0.2 0 id 1 ttl 64"},
		{"random", func(i *resource.Injection) { i.Mode, i.ICMPID, i.TTL = "random", 9, 5 }, 2, src, dst, "02:00:00:00:00:01 10.0.0.1 1 > 02:00:00:00:00:02 10.0.0.2 0 id 9 ttl 5"},
		{"ports", func(i *resource.Injection) { i.Type, i.DstPort = "udp4", 53 }, 1, src, dst, "02:00:00:00:00:01 10.0.0.1 2 > 02:00:00:00:00:02 10.0.0.2 53 id 1 ttl 64"},
		{"link-local to link-local", func(i *resource.Injection) { i.Type = "icmp6" }, 0, src, dst, "02:00:00:00:00:01 fe80::1 1 > 02:00:00:00:00:02 fe80::2 0 id 1 ttl 64"},
		{"global to global", func(i *resource.Injection) { i.Type, i.DstIP = "icmp6", "2001:db8::9" }, 0, src, dst, "02:00:00:00:00:01 2001:db8::1 1 > 02:00:00:00:00:02 2001:db8::9 0 id 1 ttl 64"},
		{"gateway", func(i *resource.Injection) { i.DstIP = "8.8.8.8" }, 0, src, nil, "02:00:00:00:00:01 10.0.0.1 1 > 02:00:00:00:00:fe 8.8.8.8 0 id 1 ttl 64"},
		{"neighbour", func(i *resource.Injection) { i.DstIP = "10.0.0.7" }, 0, src, dst, "02:00:00:00:00:01 10.0.0.1 1 > 02:00:00:00:00:07 10.0.0.7 0 id 1 ttl 64"},
		{"machines of Neutron", nil, 0, vm, vm, "fa:16:3e:00:00:03 192.168.0.3 1 > fa:16:3e:00:00:03 192.168.0.3 0 id 1 ttl 64"},
		{"given", func(i *resource.Injection) {
			i.SrcIP, i.DstIP, i.SrcMAC, i.DstMAC = "1.1.1.1/24", "2.2.2.0/24", "02:00:00:00:00:aa", "02-00-00-00-00-bb"
		}, 0, bare, nil, "02:00:00:00:00:aa 1.1.1.1 1 > 02:00:00:00:00:bb 2.2.2.1 0 id 1 ttl 64"},
		{"point to point", func(i *resource.Injection) { i.DstIP = "2.2.2.2/31" }, 0, src, dst, "02:00:00:00:00:01 10.0.0.1 1 > 02:00:00:00:00:fe 2.2.2.2 0 id 1 ttl 64"},
		{"without Ethernet", func(i *resource.Injection) { i.DstIP = "1.2.3.4" }, 0, tun, nil, " 10.9.0.1 1 >  1.2.3.4 0 id 1 ttl 64"},
		{"no address", nil, 0, bare, dst, errNoSource.Error()},
		{"no destination", nil, 0, src, nil, errNoTarget.Error()},
		{"no address there", nil, 0, src, bare, errNoTargetIP.Error()},
		{"no MAC", func(i *resource.Injection) { i.SrcIP, i.DstIP = "1.1.1.1", "1.1.1.2" }, 0, bare, nil, errNoSourceMAC.Error()},
		{"no MAC there", func(i *resource.Injection) { i.SrcIP, i.DstIP, i.SrcMAC = "1.1.1.1", "1.1.1.2", "02:00:00:00:00:aa" }, 0, bare, nil, errNoTargetMAC.Error()},
		{"wrong family", func(i *resource.Injection) { i.DstIP = "::1" }, 0, src, dst, "DstIP: ::1 does not fit the type of the packets"},
	} {
		i := injection("i")
		if c.edit != nil {
			c.edit(&i)
		}
		r, err := resolve(&i, c.n, c.src, c.dst)
		got := fmt.Sprintf("%s %s %d > %s %s %d id %d ttl %d", r.SrcMAC, r.SrcIP, r.SrcPort, r.DstMAC, r.DstIP, r.DstPort, r.ICMPID, r.TTL)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
	i := injection("i")
	i.Type, i.Count = "tcp4", 0
	r, err := resolve(&i, 0, src, dst)
	if err != nil || r.SrcPort < 1024 || r.DstPort < 1024 || r.Count != 1 {
		t.Errorf("%+v %v", r, err)
	}
	i.Pcap = []byte("x")
	if r, err := resolve(&i, 0, bare, nil); err != nil || r.SrcIP != "" || r.Count != 0 || string(r.Pcap) != "x" {
		t.Errorf("%+v %v", r, err)
	}
}

// The request is what public agents were seen to get.
func TestRequestJSON(t *testing.T) {
	mac := func(n byte) net.HardwareAddr { return net.HardwareAddr{2, 0xfe, 0, 0, 0, n} }
	text, err := json.Marshal(resource.InjectionRequest{
		UUID: "u", SrcIP: "10.200.0.1", SrcMAC: mac(1), SrcPort: 1, DstIP: "10.200.0.5", DstMAC: mac(2), Type: "icmp4", Count: 2, ICMPID: 7, Interval: 100, Mode: "unique", Payload: "hello",
	})
	want := `{"UUID":"u","SrcIP":"10.200.0.1","SrcMAC":"Av4AAAAB","SrcPort":1,"DstIP":"10.200.0.5","DstMAC":"Av4AAAAC","DstPort":0,"Type":"icmp4","Count":2,"ICMPID":7,"Interval":100,"Mode":"unique","IncrementPayload":0,"Payload":"hello","Pcap":null,"TTL":0}`
	if err != nil || string(text) != want {
		t.Errorf("%s %v", text, err)
	}
}

func TestCheckInjection(t *testing.T) {
	l := newLab(t)
	l.place("s", "h", 1)
	l.place("d", "h", 2)
	for want, edit := range map[string]func(*resource.Injection){
		"": func(i *resource.Injection) {},
		"Not able to find a source node for 'G.V().Has('Name','none')'":             func(i *resource.Injection) { i.Src = "G.V().Has('Name','none')" },
		"Not able to find a source node for 'G.V().Count()': " + errSelects.Error(): func(i *resource.Injection) { i.Src = "G.V().Count()" },
		errNoTarget.Error(): func(i *resource.Injection) { i.Dst = "" },
		"Not able to find a destination node for 'G.V('x')': Node 'x' does not exist": func(i *resource.Injection) { i.Dst = "G.V('x')" },
	} {
		i := injection("i")
		edit(&i)
		err := CheckInjection(t.Context(), l.graph.Snapshot(), &i)
		if got := fmt.Sprint(err); got != want && !(err == nil && want == "") {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if err := CheckInjection(t.Context(), l.graph.Snapshot(), &resource.Capture{}); err == nil {
		t.Error("a capture passes")
	}
}

// shelf is a store of captures.
type shelf map[string][]byte

func (s shelf) List(context.Context, string) (map[string][]byte, error) { return s, nil }

func (s shelf) Create(_ context.Context, key string, value []byte, _ time.Duration) error {
	if s[key] != nil {
		return fmt.Errorf("key exists: %w", fs.ErrExist)
	}
	s[key] = value
	return nil
}

func TestEnsureCapture(t *testing.T) {
	s := shelf{}
	c := resource.Capture{GremlinQuery: "G.V().Has('Type','veth')", Type: "afpacket"}
	for n, want := range []bool{true, false, false} {
		if created, err := EnsureCapture(t.Context(), s, c); err != nil || created != want {
			t.Errorf("%d: %v %v", n, created, err)
		}
	}
	keys := make([]string, 0, 1)
	for key, value := range s {
		keys = append(keys, key)
		if !strings.Contains(string(value), `"LayerKeyMode":"L2"`) || !strings.Contains(string(value), strings.TrimPrefix(key, "/capture/")) {
			t.Errorf("%s", value)
		}
	}
	clear(s)
	if _, err := EnsureCapture(t.Context(), s, c); err != nil || len(keys) != 1 || s[keys[0]] == nil {
		t.Errorf("another identifier: %v %v", keys, err)
	}
	c.BPFFilter = "port 80"
	if created, err := EnsureCapture(t.Context(), s, c); err != nil || !created {
		t.Errorf("%v %v", created, err)
	}
	// One that a user has made counts.
	clear(s)
	s["/capture/mine"] = []byte(`{"UUID":"mine","GremlinQuery":"G.V().Has('Type','veth')","BPFFilter":"port 80","Type":"afpacket"}`)
	if created, err := EnsureCapture(t.Context(), s, c); err != nil || created {
		t.Errorf("%v %v", created, err)
	}
	if _, err := EnsureCapture(t.Context(), s, resource.Capture{GremlinQuery: "bad("}); err == nil {
		t.Error("an invalid capture is stored")
	}
}
