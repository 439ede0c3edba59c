package netlink

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
)

// cpu returns the processor time of this process so far.
func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// sh runs a script in the namespace of the host, in a process of its own so that its processor time is not ours.
func (l *lab) sh(script string) {
	l.Helper()
	cmd := exec.Command("nsenter", "--net="+l.root, "sh", "-ec", script)
	cmd.Dir = l.run
	if out, err := cmd.CombinedOutput(); err != nil {
		l.Fatalf("%v\n%s", err, out)
	}
}

func fdCount(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestRootScale makes namespaces with a veth each into a bridge, waits until the graph has them, and deletes them again (bars P4 and
// P5 of the performance table; processes are not searched, since others of this machine come and go).
func TestRootScale(t *testing.T) {
	const count = 200
	l := newLab(t)
	l.ip("", "link add br0 type bridge\nlink set br0 up")
	before, goroutines := fdCount(t), runtime.NumGoroutine()
	stop := l.start(func(c *Config) { c.Netns.ProcPath = "/proc" })
	began := cpu()
	type state struct{ namespaces, veths, peers, pairs, ports int }
	// now counts what is ours: other tests of this machine may have namespaces, too.
	now := func() (s state) {
		snap := l.Graph.Snapshot()
		owner := func(id string) *graph.Node {
			for e := range snap.In(id) {
				if relation(e) == probe.Ownership {
					return snap.Node(e.Parent)
				}
			}
			return nil
		}
		ours := func(n *graph.Node) bool {
			return n != nil && (n.ID == l.Env.Root || strings.HasPrefix(n.Metadata.Text("Path"), l.run))
		}
		for n := range snap.Nodes(field.Filter{}) {
			switch {
			case n.Metadata.Text("Type") == "netns" && ours(n):
				s.namespaces++
			case n.Metadata.Text("Type") != "veth" || !ours(owner(n.ID)):
			case n.Metadata.Text("Name") == "eth0":
				s.peers++
			default:
				s.veths++
			}
		}
		for e := range snap.Edges(field.Filter{}) {
			switch {
			case relation(e) != probe.Layer2 || !ours(owner(e.Parent)) || !ours(owner(e.Child)):
			case e.Metadata.Text("Type") == "veth":
				s.pairs++
			default:
				s.ports++
			}
		}
		return s
	}
	start := time.Now()
	l.sh(fmt.Sprintf(`for i in $(seq %d); do
	touch n$i; unshare --net=n$i true
	ip link add v$i type veth peer name eth0 netns $PWD/n$i
	ip link set v$i master br0 up
	nsenter --net=n$i ip link set eth0 up
done`, count))
	made := time.Now()
	within := func(what string, ok func() bool) {
		t.Helper()
		defer func() {
			if t.Failed() {
				t.Logf("%+v", now())
				fam, _ := l.Registry.Gather()
				for _, f := range fam {
					t.Log(f.String())
				}
				for i := range count {
					name := fmt.Sprintf("n%d", i+1)
					if l.node(name, "eth0") == nil {
						out, _ := exec.Command("nsenter", "--net="+l.path(name), "ip", "-d", "link").CombinedOutput()
						t.Logf("%s: lo %v %s", name, l.node(name, "lo"), out)
					}
				}
			}
		}()
		l.eventually(what, ok)
		t.Logf("%s %v after the end", what, time.Since(made).Round(time.Millisecond))
	}
	t.Logf("creation took %v", made.Sub(start).Round(time.Millisecond))
	within("last namespace", func() bool { return now().namespaces == count })
	within("last veth", func() bool { return now().veths == count && now().peers == count })
	within("last edge", func() bool { return now().pairs == count && now().ports == count })
	t.Logf("CPU %v", (cpu() - began).Round(time.Millisecond))
	if got := fdCount(t) - before; got > 2*count+20 {
		t.Errorf("%d file descriptors for %d namespaces", got, count)
	} else {
		t.Logf("%d file descriptors", got)
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	t.Logf("heap %d kB, from the system %d kB", mem.HeapAlloc>>10, mem.Sys>>10)

	began = cpu()
	l.sh(fmt.Sprintf("for i in $(seq %d); do umount -l n$i; rm n$i; done", count))
	made = time.Now()
	within("no ghost", func() bool {
		return now() == state{}
	})
	t.Logf("CPU %v", (cpu() - began).Round(time.Millisecond))
	out, err := exec.Command("nsenter", "--net="+l.root, "ip", "-o", "link").Output()
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(out), "\n"); n != 2 {
		t.Errorf("the kernel still has %d interfaces", n)
	}
	stop()
	l.eventually("goroutines and files end", func() bool { return runtime.NumGoroutine() <= goroutines && fdCount(t) <= before })
}
