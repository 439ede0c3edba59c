package e2e

import (
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"skydive/src/ovs/ovstest"
)

// northbound is a database of OVN that all hosts can reach, by a socket.
type northbound struct{ *ovstest.Server }

func startNorthbound(t testing.TB) northbound {
	t.Helper()
	if _, err := exec.LookPath("ovn-nbctl"); err != nil {
		ovstest.Missing(t, "ovn-nbctl is needed: install the packages ovn-common and ovn-central")
	}
	return northbound{ovstest.Start(t, "", ovstest.Schema("/usr/share/ovn/ovn-nb.ovsschema", "OVN_Northbound"))}
}

func (n northbound) ctl(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ovn-nbctl", append([]string{"--db=" + n.DB, "--timeout=20"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ovn-nbctl %v: %v: %s", args, err, out)
	}
}

// described returns what the probes of analyzers added, by ID; the time of its creation tells whether it was there all the while.
func (c *cluster) described(a *Host) (map[string]string, error) {
	all, err := c.elements(a)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(all, func(_, text string) bool { return !strings.Contains(text, `"Origin":"probe.`) })
	return all, nil
}

// runner returns the analyzer that runs the probes, as all of these see it.
func (c *cluster) runner(among ...*Host) (runner *Host) {
	c.t.Helper()
	need(c.t, Until(25*time.Second, func() error {
		runner = nil
		for _, a := range among {
			st, err := a.Status(a.analyzerAddr())
			if err != nil {
				return err
			}
			probes := st["Probes"].(map[string]any)
			states := map[any]int{}
			for _, name := range []string{"fabric", "ovn", "peering"} {
				states[probes[name].(map[string]any)["Status"]]++
			}
			switch {
			case states["running"] == 3 && runner == nil:
				runner = a
			case states["stopped"] != 3:
				return fmt.Errorf("%s: %v", a.Name, probes)
			}
			if s := probes["k8s"].(map[string]any); s["Status"] != "absent" || s["Reason"] == "" {
				return fmt.Errorf("%s: %v", a.Name, s)
			}
		}
		if runner == nil {
			return fmt.Errorf("nobody runs the probes")
		}
		return nil
	}))
	return runner
}

// TestRootAnalyzerProbes has three analyzers, one of which shows OVN and the fabric in the graphs of all. What is shown stays as it is,
// untouched, when that one is killed and another goes on.
func TestRootAnalyzerProbes(t *testing.T) {
	nb := startNorthbound(t)
	nb.ctl(t, "ls-add", "sw0", "--", "lsp-add", "sw0", "vm1", "--", "lr-add", "r0", "--", "lrp-add", "r0", "r0-sw0", "00:00:00:00:ff:01", "10.0.0.1/24",
		"--", "lsp-add", "sw0", "sw0-r0", "--", "lsp-set-options", "sw0-r0", "router-port=r0-sw0")
	config := func(fabric string) string {
		return "analyzer.topology: {probes: [ovn, k8s], ovn: {address: '" + nb.DB + "'}, fabric: [" + fabric + "]}\n"
	}
	c := newCluster(t, 3, 1, config("TOR -> PORT1, 'PORT1 -> *[Type=host,Name=h1]/br0', TOR -> PORT2"))
	h1 := c.agents[0]
	script(t, h1, "ip link add br0 type bridge")

	// Of the database five nodes and NB_Global, three references and the link of the router; of the fabric three nodes, two edges from TOR
	// to each port, and the link with the host.
	const elements = 5 + 1 + 3 + 1 + 3 + 2*2 + 1
	same := func(n int, among ...*Host) (all map[string]string) {
		c.t.Helper()
		need(c.t, Until(30*time.Second, func() error {
			all = nil
			for _, a := range among {
				got, err := c.described(a)
				if err != nil {
					return err
				}
				if len(got) != n || all != nil && !maps.Equal(all, got) {
					return fmt.Errorf("%s has %d elements, want %d: %v", a.Name, len(got), n, slices.Collect(maps.Values(got)))
				}
				all = got
			}
			return nil
		}))
		return all
	}
	before := same(elements, c.analyzers...)
	c.equal(20*time.Second, c.analyzers...)

	t.Run("fail-over", func(t *testing.T) {
		c.t = t
		first := c.runner(c.analyzers...)
		left := c.others(first)
		stop, watched := make(chan struct{}), make(chan error, 1)
		go func() {
			for looks := 0; ; looks++ {
				select {
				case <-stop:
					if looks < 10 {
						watched <- fmt.Errorf("%d looks only", looks)
					}
					watched <- nil
					return
				default:
				}
				now, err := c.described(left[looks%len(left)])
				for id, text := range before {
					if err == nil && now[id] != text {
						err = fmt.Errorf("while nobody led: %s became %q", text, now[id])
					}
				}
				if err != nil {
					watched <- err
					return
				}
			}
		}()
		killed := time.Now()
		c.running[first].Kill()
		nb.ctl(t, "ls-add", "sw1")
		same(elements+1, left...)
		t.Logf("the next analyzer showed a new switch %v after the first was killed", time.Since(killed).Round(100*time.Millisecond))
		close(stop)
		need(t, <-watched)
		second := c.runner(left...)

		// The agent begins anew: its nodes are others, and the fabric is linked with them.
		c.running[h1].Kill()
		c.launch(h1)
		need(t, Until(30*time.Second, func() error {
			if n := count(t, second, second.analyzerAddr(), "G.V().Has('Name', 'PORT1').Both('Name', 'br0').Count()"); n != 1 {
				return fmt.Errorf("%d links", n)
			}
			return nil
		}))
		c.launch(first)
		c.answers(first)
		if got := c.runner(c.analyzers...); got != second {
			t.Errorf("%s took over from %s, which was well", got.Name, second.Name)
		}
		same(elements+1, c.analyzers...)
		c.equal(30*time.Second, c.analyzers...)
	})
	t.Run("the configuration shrinks", func(t *testing.T) {
		c.t = t
		c.extra = config("TOR -> PORT2")
		for _, a := range c.analyzers {
			c.running[a].Kill()
			c.launch(a)
			c.answers(a)
		}
		c.runner(c.analyzers...)
		same(elements+1-4, c.analyzers...)
	})
	t.Run("the database is away", func(t *testing.T) {
		c.t = t
		runner := c.runner(c.analyzers...)
		nb.KillDB(t)
		reason := func() (s string) {
			st, err := runner.Status(runner.analyzerAddr())
			need(t, err)
			s, _ = st["Probes"].(map[string]any)["ovn"].(map[string]any)["Reason"].(string)
			return s
		}
		need(t, Until(10*time.Second, func() error {
			if !strings.HasPrefix(reason(), "not connected") {
				return fmt.Errorf("reason %q", reason())
			}
			return nil
		}))
		nb.StartDB(t)
		need(t, Until(10*time.Second, func() error {
			if reason() != "" {
				return fmt.Errorf("reason %q", reason())
			}
			return nil
		}))
		same(elements+1-4, c.analyzers...)
	})
	t.Run("a probe is configured no more", func(t *testing.T) {
		c.t = t
		c.extra = "analyzer.topology: {fabric: [TOR -> PORT2]}\n"
		for _, a := range c.analyzers {
			c.running[a].Kill()
			c.launch(a)
			c.answers(a)
		}
		same(2+2, c.analyzers...)
	})
}

// TestRootBadFabric: a rule that cannot be understood is shown where it is, and the analyzer does not start with it.
func TestRootBadFabric(t *testing.T) {
	l := newLab(t)
	h := addHost(t, l, "a1")
	p, err := h.Start("analyzer:\n  topology:\n    fabric:\n    - A -> B\n    - B => C\n", "analyzer")
	need(t, err)
	if err := p.Wait(20 * time.Second); err == nil {
		t.Error("it ended well")
	}
	if out := p.Output(); !strings.Contains(out, ":4:5: analyzer.topology.fabric: rule 2, column 3: Fabric link definition should have two endpoints") {
		t.Error(out)
	}
}
