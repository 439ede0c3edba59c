package etcd

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestRootPartition cuts off whoever leads: it knows before another leads, and when the cut heals nobody is disturbed.
func TestRootPartition(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		if os.Getenv("SKYDIVE_CI") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	ip := func(args string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v %s", args, err, out)
		}
	}
	namespace := func(name string) {
		t.Helper()
		ip("netns add " + name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() }) // nothing to be done if it fails
	}
	prefix := fmt.Sprintf("skye%d-", os.Getpid())
	hub := prefix + "hub"
	namespace(hub)
	ip("-n " + hub + " link add name switch type bridge")
	ip("-n " + hub + " link set switch up")
	peers, cfgs := map[string]string{}, map[string]Config{}
	for i := range 3 {
		name, address := fmt.Sprintf("m%d", i), fmt.Sprintf("10.99.0.%d", i+1)
		at := prefix + name
		namespace(at)
		ip(fmt.Sprintf("-n %s link add name %s type veth peer name eth0 netns %s", hub, name, at))
		ip(fmt.Sprintf("-n %s link set %s master switch up", hub, name))
		ip(fmt.Sprintf("-n %s addr add %s/24 dev eth0", at, address))
		ip("-n " + at + " link set eth0 up")
		ip("-n " + at + " link set lo up")
		peers[name] = "http://" + address + ":12380"
		cfgs[name] = Config{Embedded: true, Listen: address + ":12379", DataDir: t.TempDir(), Name: name, Peers: peers, ClientTimeout: 5 * time.Second}
	}
	children := map[string]*child{}
	for name, c := range cfgs {
		children[name] = spawn(t, c, "ip", "netns", "exec", prefix+name)
	}
	for _, c := range children {
		c.wait(t)
	}
	first, _ := leader(t, children, "", 20*time.Second)
	for range 2 {
		cut := time.Now()
		ip(fmt.Sprintf("-n %s link set %s down", hub, first))
		next, began := leader(t, children, first, 12*time.Second)
		ended := children[first].last()
		t.Logf("%s was told %v after the cut, %s leads %v after it", first, ended.at.Sub(cut), next, began.Sub(cut))
		if ended.leads || !ended.at.Before(began) {
			t.Errorf("whoever is cut off leads %v, since %v; the next one since %v", ended.leads, ended.at, began)
		}
		ip(fmt.Sprintf("-n %s link set %s up", hub, first))
		// For longer than a term whoever leads goes on.
		tick := time.NewTicker(100 * time.Millisecond)
		for healed := time.Now(); time.Since(healed) < 2*termSeconds*time.Second; <-tick.C {
			if now := children[first].last(); now.leads {
				t.Fatalf("%s leads when the cut heals", first)
			}
			if now := children[next].last(); !now.leads || !now.at.Equal(began) {
				t.Fatalf("%s leads no more when the cut heals", next)
			}
		}
		tick.Stop()
		first = next
	}
}
