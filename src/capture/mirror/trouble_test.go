package mirror

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"skydive/src/capture"
	"skydive/src/ovs/ovstest"
	"skydive/src/resource"
)

// exporting are the kinds with the column of a bridge that they need.
var exporting = map[string]string{"ovssflow": "sflow", "ovsnetflow": "netflow", "ovsipfix": "ipfix"}

func TestRootRowsOfOthersStay(t *testing.T) {
	l := newLab(t)
	l.Vsctl(t, "--", "--id=@o", "get", "Port", "pb", "--", "--id=@m", "create", "Mirror", "name=theirs", "select_all=true", "output_port=@o",
		"--", "set", "Bridge", "br0", "mirrors=@m")
	for _, table := range []string{"sFlow", "NetFlow", "IPFIX"} {
		column := strings.ToLower(table)
		l.Vsctl(t, "--", "--id=@x", "create", table, `targets="192.0.2.7:4739"`, "--", "set", "Bridge", "br0", column+"=@x")
	}
	l.before = l.rows(t)
	w := l.station(t)
	br, pa := l.bridge(t, "br0"), l.port(t, "pa")
	w.start(t, pa, asked("m", "ovsmirror"))
	for kind := range exporting {
		if err := w.m.Start(br, asked(kind, kind)); err != nil {
			t.Fatal(err)
		}
	}
	for kind, column := range exporting {
		w.becomes(t, br, asked(kind, kind), "error", "bridge br0 sends ")
		if text := w.entry(br.ID, kind).Text("Error"); !strings.Contains(text, "to [192.0.2.7:4739] already") || !strings.Contains(text, "ovs-vsctl clear bridge br0 "+column) {
			t.Errorf("%s: %s", kind, text)
		}
	}
	w.end(t, pa, "m")
	l.clean(t)
	for kind, column := range exporting {
		l.Vsctl(t, "clear", "Bridge", "br0", column)
		w.becomes(t, br, asked(kind, kind), "active", "")
	}

	// Who puts a row of their own in place of ours keeps it.
	l.Vsctl(t, "--", "--id=@x", "create", "sFlow", `targets="192.0.2.8:6343"`, "--", "set", "Bridge", "br0", "sflow=@x")
	w.becomes(t, br, asked("ovssflow", "ovssflow"), "error", "192.0.2.8:6343")
	w.stop()
	if got := l.Vsctl(t, "--columns=targets", "list", "sFlow"); got != `targets             : ["192.0.2.8:6343"]` {
		t.Errorf("theirs is %s", got)
	}
	if got := l.Vsctl(t, "get", "Bridge", "br0", "netflow", "ipfix"); got != "[]\n[]" {
		t.Errorf("left: %s", got)
	}
	if got := l.Vsctl(t, "--columns=name", "list", "Mirror"); got != "name                : theirs" {
		t.Errorf("mirrors: %s", got)
	}
}

// TestRootAgent is the agent of TestRootKilled: it captures until it is killed.
func TestRootAgent(t *testing.T) {
	db := os.Getenv("OVC_DATABASE")
	if db == "" {
		t.Skip("this is the process of another test")
	}
	l := &lab{Server: &ovstest.Server{DB: db}, sw: "ovc-sw"}
	w := l.station(t)
	w.start(t, l.port(t, "pa"), asked("m", "ovsmirror"))
	for kind := range exporting {
		w.start(t, l.bridge(t, "br0"), asked(kind, kind))
	}
	fmt.Println("capturing")
	select {}
}

func TestRootKilled(t *testing.T) {
	l := newLab(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestRootAgent$")
	cmd.Env = append(os.Environ(), "OVC_DATABASE="+l.DB)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "capturing" {
		t.Log(lines.Text())
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if left := l.rows(t); strings.Count(left, markKey) != 5 {
		t.Fatalf("rows of the killed agent:\n%s", left)
	}
	// Of an older agent, and of another host.
	l.Vsctl(t, "--", "--id=@m", "create", "Mirror", "name=old", "external_ids:"+markKey+"=1", "--", "add", "Bridge", "br0", "mirrors", "@m")
	l.Vsctl(t, "add-br", "br1", "--", "set", "Bridge", "br1", "datapath_type=netdev", "--", "--id=@m", "create", "NetFlow", `targets="192.0.2.7:1"`,
		"external_ids:"+markKey+"=1", "external_ids:"+hostKey+"=h2", "--", "set", "Bridge", "br1", "netflow=@m")

	w := l.station(t)
	eventually(t, "sweep", func() bool { return strings.Count(l.rows(t), markKey) == 1 })
	if theirs := l.Vsctl(t, "get", "NetFlow", l.Vsctl(t, "get", "Bridge", "br1", "netflow"), "external_ids:"+hostKey); theirs != "h2" {
		t.Errorf("the row of another host: %s", theirs)
	}
	l.Vsctl(t, "del-br", "br1")
	l.clean(t)

	// An agent that ends takes all out, too.
	w.start(t, l.port(t, "pa"), asked("m", "ovsmirror"))
	for kind := range exporting {
		w.start(t, l.bridge(t, "br0"), asked(kind, kind))
	}
	w.stop()
	l.clean(t)
}

// TestRootCapturesOfAKilledAgentGoOn: the same captures come back with the next agent, and find none of their old rows in their way.
func TestRootCapturesOfAKilledAgentGoOn(t *testing.T) {
	l := newLab(t)
	br := l.bridge(t, "br0")
	l.Vsctl(t, "--", "--id=@s", "create", "sFlow", `targets="127.0.0.1:1"`, "external_ids:"+markKey+"=s/"+br.UUID+"/1", "external_ids:"+hostKey+"=h1",
		"--", "set", "Bridge", "br0", "sflow=@s")
	l.StopDB(t)
	w := l.station(t)
	if err := w.m.Start(br, asked("s", "ovssflow")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "claim", func() bool { w.s.mu.Lock(); defer w.s.mu.Unlock(); return len(w.s.live) > 0 })
	l.StartDB(t)
	w.becomes(t, br, asked("s", "ovssflow"), "active", "")
	w.mu.Lock()
	log := w.log.String()
	w.mu.Unlock()
	if strings.Contains(log, "Capture failed") {
		t.Error("failed at first")
	}
	w.stop()
	l.clean(t)
}

func TestRootDatabaseDies(t *testing.T) {
	l := newLab(t)
	w := l.station(t)
	pa, pb, br := l.port(t, "pa"), l.port(t, "pb"), l.bridge(t, "br0")
	w.start(t, pa, asked("a", ""))
	w.start(t, pb, asked("b", ""))
	w.start(t, br, asked("s", ""))
	l.ping(t, 5)
	eventually(t, "packets", func() bool { return w.packets("a") == 10 && w.packets("b") == 10 })

	l.KillDB(t)
	connected := func() bool { w.s.mu.Lock(); defer w.s.mu.Unlock(); return w.s.connected }
	eventually(t, "loss of the connection", func() bool { return !connected() })
	w.end(t, pb, "b") // nothing can be taken out now
	l.StartDB(t)
	eventually(t, "connection", connected)
	eventually(t, "sweep", func() bool { return strings.Count(l.rows(t), markKey) == 3 })
	w.becomes(t, pa, asked("a", ""), "active", "")
	l.ping(t, 5)
	eventually(t, "packets of what was not touched", func() bool { return w.packets("a") == 20 })

	// What somebody takes out is put again.
	mirror := func() string { return l.Vsctl(t, "get", "Bridge", "br0", "mirrors") }
	was := mirror()
	l.Vsctl(t, "clear", "Bridge", "br0", "mirrors")
	w.becomes(t, pa, asked("a", ""), "error", "the Mirror row of the capture was taken out")
	w.becomes(t, pa, asked("a", ""), "active", "")
	if now := mirror(); now == was || now == "[]" {
		t.Errorf("mirrors %s", now)
	}
	l.Vsctl(t, "clear", "Bridge", "br0", "sflow")
	w.becomes(t, br, asked("s", ""), "error", "the sFlow row of the capture was taken out")
	w.becomes(t, br, asked("s", ""), "active", "")

	// A database that hangs keeps nobody.
	w.start(t, pb, asked("b", ""))
	resume := l.PauseDB(t)
	began := time.Now()
	var both sync.WaitGroup
	both.Go(func() { w.end(t, pb, "b") })
	both.Go(func() { w.end(t, pa, "a") })
	both.Wait()
	if took := time.Since(began); took > 3*patience {
		t.Errorf("captures took %v to end", took)
	}
	resume()
	eventually(t, "sweep", func() bool { return strings.Count(l.rows(t), markKey) == 1 })
	w.stop()
	l.clean(t)
}

func TestRootSwitchDies(t *testing.T) {
	l := newLab(t)
	w := l.station(t)
	pa, br := l.port(t, "pa"), l.bridge(t, "br0")
	w.start(t, pa, asked("a", ""))
	sflow := asked("s", "ovssflow")
	sflow.SamplingRate = 1
	w.start(t, br, sflow)
	l.KillSwitch(t)
	pb := l.port(t, "pb")
	if err := w.m.Start(pb, asked("b", "")); err != nil {
		t.Fatal(err)
	}
	w.becomes(t, pb, asked("b", ""), "error", "does ovs-vswitchd run?")
	l.StartSwitch(t)
	w.becomes(t, pa, asked("a", ""), "active", "")
	w.becomes(t, pb, asked("b", ""), "active", "")
	l.ping(t, 5)
	eventually(t, "packets", func() bool { return w.packets("a") == 10 && w.packets("b") == 10 && w.packets("s") == 10 })
	w.stop()
	l.clean(t)
}

func TestRootPortAndBridgeGo(t *testing.T) {
	l := newLab(t)
	l.Bridge(t, "br9")
	l.Vsctl(t, "add-port", "br9", "px", "--", "set", "Interface", "px", "type=internal")
	w := l.station(t)
	px, br := l.port(t, "px"), l.bridge(t, "br9")
	w.start(t, px, asked("a", ""))
	w.start(t, br, asked("s", ""))
	l.Vsctl(t, "del-port", "px")
	w.becomes(t, px, asked("a", ""), "error", capture.ErrGone.Error())
	l.Vsctl(t, "del-br", "br9")
	w.becomes(t, br, asked("s", ""), "error", "was taken out")
	w.becomes(t, br, asked("s", ""), "error", capture.ErrGone.Error())
	w.m.Gone(px.ID)
	w.m.Gone(br.ID)
	w.stop()
	l.clean(t)
}

// The switch exports to a collector itself; we neither listen nor count.
func TestRootTarget(t *testing.T) {
	l := newLab(t)
	w := l.station(t)
	br := l.bridge(t, "br0")
	for kind, column := range exporting {
		var conn net.PacketConn
		if err := within("/run/netns/"+l.sw, func() (err error) {
			conn, err = net.ListenPacket("udp", "127.0.0.1:0")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		c := asked(kind, kind)
		c.SamplingRate, c.PollingInterval, c.Target, c.TargetType = 1, 1, conn.LocalAddr().String(), "netflowv5"
		w.start(t, br, c)
		l.ping(t, 5)
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		n, _, err := conn.ReadFrom(make([]byte, 1<<16))
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		t.Logf("%s: datagram of %d bytes", kind, n)
		if w.packets(kind) != 0 || w.entry(br.ID, kind).Text("SFlowSocket")+w.entry(br.ID, kind).Text("NetFlowSocket") != "" {
			t.Errorf("%s is collected: %v", kind, w.entry(br.ID, kind))
		}
		w.end(t, br, kind)
		if got := l.Vsctl(t, "get", "Bridge", "br0", column); got != "[]" {
			t.Errorf("%s stays: %s", column, got)
		}
		conn.Close()
	}
	l.clean(t)
}

func TestRootRefusals(t *testing.T) {
	l := newLab(t)
	l.Bridge(t, "br1", "br2")
	w := l.station(t)
	pa, br := l.port(t, "pa"), l.bridge(t, "br0")
	w.start(t, pa, asked("a", ""))
	name := ""
	for iface := range w.mirrors {
		name = iface
	}
	of := l.port(t, name)
	if err := w.m.Start(of, asked("mm", "")); err != nil {
		t.Fatal(err)
	}
	w.becomes(t, of, asked("mm", ""), "error", "this is the mirror of a port")
	for i, c := range []struct {
		kind   string
		change func(*resource.Capture)
		reason string
	}{
		{"ovsnetflow", func(c *resource.Capture) { c.RawPacketLimit = 1 }, "NetFlow tells of flows: there are no raw packets"},
		{"ovssflow", func(c *resource.Capture) { c.RawPacketLimit, c.Target = 1, "192.0.2.1:1" }, "by itself: no raw packets are kept"},
		{"ovsipfix", func(c *resource.Capture) { c.BPFFilter, c.Target = "tcp", "192.0.2.1:1" }, "by itself, which it cannot filter"},
	} {
		asked := asked(fmt.Sprint("r", i), c.kind)
		c.change(&asked)
		if err := w.m.Start(br, asked); err != nil {
			t.Fatal(err)
		}
		w.becomes(t, br, asked, "error", c.reason)
		w.end(t, br, asked.UUID)
	}
	// The pool has two ports for sFlow.
	w.start(t, br, asked("s0", "ovssflow"))
	var refused *capture.RefusedError
	if err := w.m.Start(br, asked("again", "ovssflow")); !errors.As(err, &refused) || refused.Status != 409 {
		t.Errorf("a second one on the bridge: %v", err)
	}
	w.start(t, l.bridge(t, "br1"), asked("s1", "ovssflow"))
	br2 := l.bridge(t, "br2")
	if err := w.m.Start(br2, asked("s2", "ovssflow")); err != nil {
		t.Fatal(err)
	}
	w.becomes(t, br2, asked("s2", "ovssflow"), "error", "no free port from 6345 to 6346")
	w.end(t, br, "s0")
	w.becomes(t, br2, asked("s2", "ovssflow"), "active", "")
}

// A mirror shows packets as the port does, tagged or not, however long.
func TestRootMirrorOfAccessPort(t *testing.T) {
	l := newLab(t)
	for _, ns := range []string{l.a, l.b} {
		sh(t, "ip -n %s link set eth0 mtu 9000 && ip -n %s link set p%s mtu 9000", ns, l.sw, ns[len("ovc-"):])
	}
	tag := func(n int) {
		l.Vsctl(t, "set", "Port", "pa", fmt.Sprint("tag=", n), "--", "set", "Port", "pb", fmt.Sprint("tag=", n))
	}
	tag(10)
	l.before = l.rows(t)
	w := l.station(t)
	pa := l.port(t, "pa")
	w.start(t, pa, asked("a", ""))
	sh(t, "ip netns exec %s ping -q -c 5 -i 0.01 -W 2 -s 8000 -M do 10.78.0.2", l.a)
	eventually(t, "packets", func() bool { return w.packets("a") == 10 })
	tag(20)
	var name string
	w.mu.Lock()
	for iface := range w.mirrors {
		name = iface
	}
	w.mu.Unlock()
	eventually(t, "tag of the mirror", func() bool { return l.Vsctl(t, "get", "Port", name, "tag") == "20" })
	l.ping(t, 5)
	eventually(t, "packets in the other VLAN", func() bool { return w.packets("a") == 20 })
	w.mu.Lock()
	defer w.mu.Unlock()
	longest := int64(0)
	for _, f := range w.flows {
		longest = max(longest, f.Metric.ABBytes)
		if strings.Contains(f.LayersPath, "Dot1Q") || strings.Contains(f.LayersPath, "VLAN") {
			t.Errorf("flow %s: the port has no tags", f.LayersPath)
		}
	}
	if longest != 5*8042 {
		t.Errorf("%d bytes", longest)
	}
}

func TestNoDatabase(t *testing.T) {
	l := &lab{Server: &ovstest.Server{DB: "unix:" + t.TempDir() + "/db.sock"}}
	w := l.station(t)
	port := capture.Node{ID: "n", TID: "t", Name: "pa", Type: "ovsport", UUID: "u"}
	if err := w.m.Start(port, asked("a", "")); err != nil {
		t.Fatal(err)
	}
	w.becomes(t, port, asked("a", ""), "error", "the database of Open vSwitch cannot be reached: ")
	w.stop()
}
