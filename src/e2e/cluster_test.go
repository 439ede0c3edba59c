package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// cluster is several analyzers that replicate, and agents that know all of them.
type cluster struct {
	t         testing.TB
	lab       *Lab
	analyzers []*Host
	agents    []*Host
	running   map[*Host]*Process // the service of each host
	extra     string             // configuration of all
}

// newCluster starts n analyzers a1… and m agents h1….
func newCluster(t testing.TB, n, m int, extra string) *cluster {
	t.Helper()
	c := &cluster{t: t, lab: newLab(t), running: map[*Host]*Process{}, extra: extra}
	if racy := os.Getenv("SKYDIVE_RACE_BINARY"); racy != "" {
		c.lab.Binary = racy
	}
	t.Cleanup(func() {
		for _, h := range c.lab.hosts {
			for _, p := range h.processes {
				if out := p.Output(); strings.Contains(out, "DATA RACE") || strings.Contains(out, "panic") {
					t.Errorf("%s of %s:\n%s", p.Name, h.Name, out[max(0, strings.Index(out, "WARNING: DATA RACE")):])
				}
			}
		}
	})
	for i := range n {
		c.analyzers = append(c.analyzers, addHost(t, c.lab, fmt.Sprintf("a%d", i+1)))
	}
	for i := range m {
		c.agents = append(c.agents, addHost(t, c.lab, fmt.Sprintf("h%d", i+1)))
	}
	for _, a := range c.analyzers {
		c.launch(a)
	}
	for _, a := range c.analyzers {
		c.answers(a)
	}
	for _, h := range c.agents {
		c.launch(h)
	}
	return c
}

// config is the configuration of a host's service.
func (c *cluster) config(h *Host) string {
	var addrs, servers, peers []string
	for _, a := range c.analyzers {
		addrs = append(addrs, a.analyzerAddr())
		servers = append(servers, "http://"+a.IP+":12379")
		peers = append(peers, fmt.Sprintf("%s: 'http://%s:12380'", a.Name, a.IP))
	}
	text := fmt.Sprintf("host_id: %s\nanalyzers: [%s]\n%s%s", h.Name, strings.Join(addrs, ", "), quick, c.extra)
	if slices.Contains(c.agents, h) {
		return text + "agent: {topology: {probes: []}}\n"
	}
	return text + fmt.Sprintf("analyzer: {listen: '0.0.0.0:8082'}\netcd: {data_dir: %s/etcd, listen: '%s:12379', name: %s, servers: [%s], peers: {%s}}\n",
		h.Dir, h.IP, h.Name, strings.Join(servers, ", "), strings.Join(peers, ", "))
}

// launch starts the service of a host.
func (c *cluster) launch(h *Host) {
	c.t.Helper()
	service := "analyzer"
	if slices.Contains(c.agents, h) {
		service = "agent"
	}
	p, err := h.Start(c.config(h), service)
	need(c.t, err)
	c.running[h] = p
}

// answers waits until an analyzer serves resources: etcd has a quorum then.
func (c *cluster) answers(a *Host) {
	c.t.Helper()
	need(c.t, Until(30*time.Second, func() error { return c.running[a].alive(a.get(a.analyzerAddr(), "/api/capture")) }))
}

// cut takes the way between two hosts away, or gives it back.
func (c *cluster) cut(a, b *Host, off bool) {
	c.t.Helper()
	verb := map[bool]string{true: "add", false: "del"}[off]
	script(c.t, a, fmt.Sprintf("ip route %s blackhole %s", verb, b.IP))
	script(c.t, b, fmt.Sprintf("ip route %s blackhole %s", verb, a.IP))
}

// elements returns what an analyzer shows, in a form that can be compared: ID → the rest, without what is measured all the time.
func (c *cluster) elements(a *Host) (map[string]string, error) {
	status, text, err := a.Request("GET", a.analyzerAddr(), "/api/topology", nil)
	if err != nil || status != 200 {
		return nil, fmt.Errorf("topology of %s: %d %s %w", a.Name, status, text, err)
	}
	var graph struct{ Nodes, Edges []map[string]any }
	if err := json.Unmarshal(text, &graph); err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, e := range append(graph.Nodes, graph.Edges...) {
		if m, ok := e["Metadata"].(map[string]any); ok {
			delete(m, "Metric")
			delete(m, "LastUpdateMetric")
			delete(m, "Captures") // has counters
		}
		delete(e, "UpdatedAt")
		delete(e, "Revision")
		line, _ := json.Marshal(e)
		all[e["ID"].(string)] = string(line)
	}
	return all, nil
}

// equal waits until all analyzers show the same, and it is what the kernels of the agents' hosts have.
func (c *cluster) equal(limit time.Duration, analyzers ...*Host) {
	c.t.Helper()
	for _, a := range analyzers {
		agree(c.t, limit, a, c.agents...)
	}
	need(c.t, Until(limit, func() error {
		want, err := c.elements(analyzers[0])
		if err != nil {
			return err
		}
		for _, a := range analyzers[1:] {
			got, err := c.elements(a)
			if err != nil {
				return err
			}
			for id, line := range want {
				if got[id] != line {
					return fmt.Errorf("%s and %s differ:\n%s\n%s", analyzers[0].Name, a.Name, line, got[id])
				}
			}
			for id := range got {
				if want[id] == "" {
					return fmt.Errorf("only %s has %s", a.Name, got[id])
				}
			}
		}
		return nil
	}))
}

// create makes a resource through the API of an analyzer and returns its ID.
func (c *cluster) create(a *Host, kind string, body map[string]any) string {
	c.t.Helper()
	status, text, err := a.Request("POST", a.analyzerAddr(), "/api/"+kind, body)
	need(c.t, err)
	var made struct{ UUID, ID string }
	if err := json.Unmarshal(text, &made); err != nil || status/100 != 2 {
		c.t.Fatalf("POST /api/%s: %d %s", kind, status, text)
	}
	return made.UUID + made.ID
}

// leader returns the analyzer that orders captures, as all of these see it.
func (c *cluster) leader(among ...*Host) (leader *Host) {
	c.t.Helper()
	need(c.t, Until(25*time.Second, func() error {
		leader = nil
		for _, a := range among {
			st, err := a.Status(a.analyzerAddr())
			if err != nil {
				return err
			}
			if st["Captures"].(map[string]any)["IsMaster"] == true {
				if leader != nil {
					return fmt.Errorf("%s and %s both lead", leader.Name, a.Name)
				}
				leader = a
			}
		}
		if leader == nil {
			return fmt.Errorf("nobody leads")
		}
		return nil
	}))
	return leader
}

// others returns all analyzers but one.
func (c *cluster) others(a *Host) []*Host {
	return slices.DeleteFunc(slices.Clone(c.analyzers), func(h *Host) bool { return h == a })
}

// change makes and removes things on every agent's host.
func (c *cluster) change(tag string) {
	c.t.Helper()
	for _, h := range c.agents {
		script(c.t, h, fmt.Sprintf(`ip netns add %[1]s; ip link add %[1]s type veth peer name eth0 netns %[1]s; ip link set %[1]s up
			ip link add br-%[1]s type bridge; ip link set %[1]s master br-%[1]s
			for ns in $(ip netns list | cut -d' ' -f1); do [ $ns = %[1]s ] || { ip netns del $ns; ip link del br-$ns || true; }; done`, tag))
	}
}

// load changes something on a host again and again, until stop is called.
func (c *cluster) load(h *Host) (stop func()) {
	c.t.Helper()
	script(c.t, h, "touch busy")
	cmd := h.Command(context.Background(), "sh", "-c", "while [ -e busy ]; do ip link add load type bridge; ip link set load up; ip link del load; done")
	need(c.t, cmd.Start())
	return func() {
		script(c.t, h, "rm busy")
		cmd.Wait()
	}
}

// TestRootClusterSurvives has three analyzers and five agents. Each analyzer in turn is killed under changes, cut off, brought back: none of
// the topology may be lost or stay behind, and what users asked for goes on.
func TestRootClusterSurvives(t *testing.T) {
	c := newCluster(t, 3, 5, "")
	c.change("first")
	c.equal(20*time.Second, c.analyzers...)

	capture := c.create(c.analyzers[0], "capture", map[string]any{"GremlinQuery": "G.V().Has('Type', 'veth')"})
	kept := c.create(c.analyzers[1], "node", map[string]any{"ID": "rack-1", "Host": "rack", "Metadata": map[string]any{"Name": "rack", "Type": "rack"}})
	active := func(a *Host, want int) {
		t.Helper()
		need(t, Until(30*time.Second, func() error {
			var n int
			if err := a.Gremlin(a.analyzerAddr(), "G.V().Has('Captures.State', 'active').Count()", &n); err != nil || n != want {
				return fmt.Errorf("%s sees %d captured interfaces, want %d (%v)", a.Name, n, want, err)
			}
			return nil
		}))
	}
	active(c.analyzers[2], 2*len(c.agents))
	c.equal(20*time.Second, c.analyzers...)

	for round, victim := range c.analyzers {
		t.Run("kill -9 "+victim.Name, func(t *testing.T) {
			c.t = t
			left := c.others(victim)
			stop := c.load(c.agents[round])
			c.running[victim].Kill()
			c.change(fmt.Sprintf("killed%d", round))
			stop()
			c.equal(30*time.Second, left...)
			c.leader(left...)
			// Interfaces that came while it was away are captured all the same.
			active(left[0], 2*len(c.agents))
			for _, a := range left {
				need(t, a.get(a.analyzerAddr(), "/api/capture/"+capture))
				need(t, a.get(a.analyzerAddr(), "/api/node/"+kept))
			}
			c.launch(victim)
			c.answers(victim)
			c.equal(30*time.Second, c.analyzers...)
			need(t, victim.get(victim.analyzerAddr(), "/api/node/"+kept))
		})
	}
	t.Run("kill -9 of every agent", func(t *testing.T) {
		c.t = t
		for i, h := range c.agents {
			c.running[h].Kill()
			script(t, h, fmt.Sprintf("ip link add away%d type bridge", i))
			c.launch(h)
		}
		c.equal(30*time.Second, c.analyzers...)
	})
	t.Run("most analyzers die", func(t *testing.T) {
		c.t = t
		last, dead := c.analyzers[2], c.analyzers[:2]
		for _, a := range dead {
			c.running[a].Kill()
		}
		// Live topology needs nobody else; resources do.
		c.change("most")
		agree(t, 30*time.Second, last, c.agents...)
		status, text, err := last.Request("POST", last.analyzerAddr(), "/api/capture", map[string]any{"GremlinQuery": "G.V().Has('Name', 'later')"})
		need(t, err)
		if status != 503 {
			t.Errorf("a capture without a quorum: %d %s, want 503", status, text)
		}
		for _, a := range dead {
			c.launch(a)
		}
		for _, a := range c.analyzers {
			c.answers(a)
			need(t, a.get(a.analyzerAddr(), "/api/capture/"+capture))
		}
		c.equal(30*time.Second, c.analyzers...)
		active(dead[0], 2*len(c.agents))
	})
	t.Run("the log of one etcd is damaged", func(t *testing.T) {
		c.t = t
		victim := c.analyzers[1]
		c.running[victim].Kill()
		script(t, victim, "for f in etcd/member/wal/*.wal; do printf 'X' | dd of=$f bs=1 seek=40 conv=notrunc status=none; done")
		c.launch(victim)
		if err := c.running[victim].Wait(30 * time.Second); err == nil || strings.Contains(err.Error(), "still runs") {
			t.Fatalf("it starts with a damaged log: %v", err)
		}
		if out := c.running[victim].Output(); !strings.Contains(out, victim.Dir+"/etcd") {
			t.Errorf("the damaged directory is not named: %s", tail(out, 5))
		}
		// What it says is to be done: the others have all of it.
		script(t, victim, "mv etcd damaged")
		c.launch(victim)
		c.answers(victim)
		need(t, victim.get(victim.analyzerAddr(), "/api/capture/"+capture))
		c.equal(30*time.Second, c.analyzers...)
	})
	t.Run("leader cut off from the others", func(t *testing.T) {
		c.t = t
		leader := c.leader(c.analyzers...)
		left := c.others(leader)
		for _, a := range left {
			c.cut(leader, a, true)
		}
		// An agent tells one analyzer, and may have chosen this one: the others see its changes when the cut is over.
		c.change("cut")
		if next := c.leader(left...); next == leader {
			t.Error("the one that is cut off still leads")
		}
		for _, a := range left {
			c.cut(leader, a, false)
		}
		c.equal(45*time.Second, c.analyzers...)
	})
	t.Run("agents cut off with one analyzer", func(t *testing.T) {
		c.t = t
		island := append([]*Host{c.analyzers[0]}, c.agents[:2]...)
		mainland := append(slices.Clone(c.analyzers[1:]), c.agents[2:]...)
		for _, a := range island {
			for _, b := range mainland {
				c.cut(a, b, true)
			}
		}
		c.change("island")
		agree(t, 30*time.Second, c.analyzers[0], c.agents[:2]...)
		for _, a := range c.analyzers[1:] {
			agree(t, 30*time.Second, a, c.agents[2:]...)
		}
		for _, a := range island {
			for _, b := range mainland {
				c.cut(a, b, false)
			}
		}
		c.change("mainland")
		c.equal(45*time.Second, c.analyzers...)
	})
	t.Run("history is whole on all", func(t *testing.T) {
		c.t = t
		for _, a := range c.analyzers {
			need(t, Until(20*time.Second, func() error {
				var names []string
				if err := a.Gremlin(a.analyzerAddr(), "G.At('-1s').V().Has('Type', 'netns').Values('Name')", &names); err != nil {
					return err
				}
				if len(names) != len(c.agents) || len(slices.Compact(slices.Sorted(slices.Values(names)))) != 1 {
					return fmt.Errorf("%s tells of %q a second ago", a.Name, names)
				}
				return nil
			}))
		}
	})
	t.Run("the same name twice", func(t *testing.T) {
		twin := addHost(t, c.lab, "twin")
		p, err := twin.Start(c.config(c.agents[0]), "agent")
		need(t, err)
		need(t, Until(20*time.Second, func() error {
			if out := p.Output(); !strings.Contains(out, "409") || !strings.Contains(out, c.agents[0].IP) {
				return fmt.Errorf("the agent does not say who has its name: %s", tail(out, 5))
			}
			return nil
		}))
		p.Kill()
	})
}

// TestRootClusterFlowHistory loses an analyzer that has flows in its archive: the others answer without these and say so, and all of them
// are found again when it is back.
func TestRootClusterFlowHistory(t *testing.T) {
	c := newCluster(t, 3, 5, "flow: {update: 1, expire: 600}\n")
	for _, h := range c.agents {
		script(t, h, netnsPair)
	}
	first := c.analyzers[0]
	c.equal(20*time.Second, c.analyzers...)
	capture(t, first, len(c.agents), map[string]any{"GremlinQuery": "G.V().Has('Name', 'a1')"})
	for _, h := range c.agents {
		script(t, h, "ip netns exec n1 ping -q -c 3 -i 0.2 192.168.9.2")
	}
	post := func(a *Host, gremlin string, answer any) (partial string) {
		t.Helper()
		client := a.HTTP()
		defer client.CloseIdleConnections()
		res, err := client.Post("http://"+a.analyzerAddr()+"/api/topology", "application/json", strings.NewReader(fmt.Sprintf(`{"GremlinQuery": %q}`, gremlin)))
		need(t, err)
		defer res.Body.Close()
		need(t, json.NewDecoder(res.Body).Decode(answer))
		return res.Header.Get("X-Skydive-Partial")
	}
	ask := func(a *Host) (hosts int, packets int64, partial string) {
		t.Helper()
		var flows []flowRecord
		partial = post(a, "G.At('-1s', 600).Flows().Has('ICMP.Type', 'ECHO')", &flows)
		nodes := map[string]bool{}
		for _, f := range flows {
			nodes[f.NodeTID] = true
			packets += f.Metric.ABPackets
		}
		return len(nodes), packets, partial
	}
	whole := func(a *Host) {
		t.Helper()
		need(t, Until(30*time.Second, func() error {
			if hosts, packets, partial := ask(a); hosts != len(c.agents) || packets != int64(3*len(c.agents)) || partial != "" {
				return fmt.Errorf("%s has flows of %d nodes, %d packets, without %q", a.Name, hosts, packets, partial)
			}
			return nil
		}))
	}
	for _, a := range c.analyzers {
		whole(a)
	}
	// One that has some of them itself.
	victim, kept := first, int64(0)
	for _, a := range c.analyzers {
		st, err := a.Status(a.analyzerAddr())
		need(t, err)
		if n := int64(st["Flows"].(map[string]any)["Stored"].(float64)); n > kept {
			victim, kept = a, n
		}
	}
	if kept == 0 {
		t.Fatal("no analyzer has stored any flow")
	}
	c.running[victim].Kill()
	killed := time.Now()
	for _, a := range c.others(victim) {
		need(t, Until(20*time.Second, func() error {
			if hosts, _, partial := ask(a); partial == "" || hosts >= len(c.agents) {
				return fmt.Errorf("%s answers for %d nodes, without %q", a.Name, hosts, partial)
			}
			return nil
		}))
	}
	// An archive knows to a second how long its process lived: a time that is surely after that.
	away := killed.Add(2 * time.Second)
	need(t, Until(10*time.Second, func() error {
		if time.Now().Before(away.Add(500 * time.Millisecond)) {
			return fmt.Errorf("it is not later than %s", away)
		}
		return nil
	}))
	c.launch(victim)
	c.answers(victim)
	for _, a := range c.analyzers {
		whole(a)
		// Of the topology of that time it knows nothing, and says so; the others do.
		var hosts int
		partial := post(a, fmt.Sprintf("G.At(%d).V().Has('Type', 'host').Count()", away.UnixMilli()), &hosts)
		if a == victim && (hosts != 0 || partial != a.Name) || a != victim && (hosts != len(c.agents) || partial != "") {
			t.Errorf("%s knows of %d hosts when %s was away, without %q", a.Name, hosts, victim.Name, partial)
		}
	}
}
