package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// TestRootKillsAndPartitions ends processes and cuts the network under changes; nothing may be lost that the kernels still have, and
// nothing may stay that they do not.
func TestRootKillsAndPartitions(t *testing.T) {
	l := newLab(t)
	an := addHost(t, l, "an")
	analyzer := startAnalyzer(t, an, quick)
	hosts := []*Host{addHost(t, l, "h1"), addHost(t, l, "h2")}
	agents := []*Process{startAgent(t, hosts[0], an, quick), startAgent(t, hosts[1], an, quick)}
	agree(t, 10*time.Second, an, hosts...)
	onHost := func(name string) int {
		return count(t, an, an.analyzerAddr(), fmt.Sprintf("G.V().Has('@Host','%s').Count()", name))
	}
	gone := func(limit time.Duration) {
		t.Helper()
		need(t, Until(limit, func() error {
			if n := onHost("h1"); n != 0 {
				return fmt.Errorf("%d nodes of h1 are still there", n)
			}
			return nil
		}))
		if onHost("h2") == 0 {
			t.Error("h2 lost its nodes too")
		}
	}

	t.Run("agent killed", func(t *testing.T) {
		agents[0].Kill()
		gone(5 * time.Second)
		script(t, hosts[0], "ip link add while-away type veth peer name while-away2")
		agents[0] = startAgent(t, hosts[0], an, quick)
		agree(t, 10*time.Second, an, hosts...)
	})
	t.Run("analyzer killed", func(t *testing.T) {
		analyzer.Kill()
		script(t, hosts[0], "ip link del while-away; ip link add other type veth peer name other2")
		analyzer = startAnalyzer(t, an, quick)
		agree(t, 15*time.Second, an, hosts...)
	})
	t.Run("agent cut off", func(t *testing.T) {
		need(t, hosts[0].Connect(false))
		gone(20 * time.Second)
		script(t, hosts[0], "ip link del other; ip netns add cut; ip link add c1 type veth peer name c2 netns cut")
		need(t, hosts[0].Connect(true))
		agree(t, 15*time.Second, an, hosts...)
	})
	t.Run("a short cut", func(t *testing.T) {
		need(t, hosts[1].Connect(false))
		script(t, hosts[1], "ip link add short type veth peer name short2")
		need(t, hosts[1].Connect(true))
		agree(t, 15*time.Second, an, hosts...)
	})
	t.Run("agent stopped and continued", func(t *testing.T) {
		need(t, agents[1].Signal(syscall.SIGSTOP))
		script(t, hosts[1], "for i in $(seq 100); do ip link add s$i type veth peer name t$i; done; for i in $(seq 50); do ip link del s$i; done")
		need(t, agents[1].Signal(syscall.SIGCONT))
		agree(t, 15*time.Second, an, hosts...)
	})
	t.Run("SIGTERM ends each within two seconds", func(t *testing.T) {
		for _, p := range []*Process{agents[0], analyzer, agents[1]} {
			need(t, p.Signal(syscall.SIGTERM))
			if err := p.Wait(2 * time.Second); err != nil {
				t.Errorf("%s: %v", p.Name, err)
			}
		}
	})
}

// TestRootStorm makes and deletes many namespaces while the graph is being read, and looks for ghosts.
func TestRootStorm(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	startAnalyzer(t, an, quick)
	agent := startAgent(t, h, an, quick)
	before, err := agent.Usage()
	need(t, err)
	for round := range 3 {
		script(t, h, `ip link add br0 type bridge; ip link set br0 up
			for i in $(seq 60); do ip netns add s$i; ip link add v$i type veth peer name eth0 netns s$i; ip link set v$i master br0 up; ip -n s$i link set eth0 up; done`)
		if round < 2 { // at once, in the last round after all was seen
			script(t, h, "for i in $(seq 60); do ip link del v$i; ip netns del s$i; done; ip link del br0")
		}
	}
	agree(t, 10*time.Second, an, h)
	if n := count(t, an, an.analyzerAddr(), "G.V().Has('Type','netns').Count()"); n != 60 {
		t.Errorf("%d namespaces, want 60", n)
	}
	script(t, h, "for i in $(seq 60); do ip link del v$i; ip netns del s$i; done; ip link del br0")
	agree(t, 10*time.Second, an, h)
	need(t, Until(5*time.Second, func() error {
		after, err := agent.Usage()
		if err == nil && after.Files > before.Files+2 {
			err = fmt.Errorf("the agent holds %d descriptors, had %d", after.Files, before.Files)
		}
		return err
	}))
}
