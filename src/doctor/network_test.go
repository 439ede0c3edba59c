package doctor

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// In a network of its own: packets that vanish, and ways that are closed.
func TestRootNetwork(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("SKYDIVE_CI") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root, to make a network namespace")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the namespace ends with the thread
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		for _, args := range []string{
			"link set lo up", "link add skyt0 type veth peer name skyt1", "link set skyt0 up", "link set skyt1 up", "addr add 192.0.2.1/24 dev skyt0",
			"neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev skyt0", "route add unreachable 198.51.100.0/24",
		} {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v %s", args, err, out)
				return
			}
		}
		for _, tc := range []struct{ addr, want, advice string }{
			{"192.0.2.2", "192.0.2.2 does not answer on port 8082 within 300ms", "the host is down, or a firewall on the way drops the packets: open TCP port 8082"},
			{"198.51.100.1", "there is no way to 198.51.100.1", "ip route get 198.51.100.1"},
			{"203.0.113.1", "there is no way to 203.0.113.1", "ip route get 203.0.113.1"},
		} {
			o := options().withDefaults()
			o.Timeout = 300 * time.Millisecond
			v := &visit{Options: o, host: tc.addr, port: "8082", report: Report{Address: net.JoinHostPort(tc.addr, "8082")}}
			v.tcp(t.Context(), []netip.Addr{netip.MustParseAddr(tc.addr)}) // on this thread
			if c := find(v.report, "tcp"); c.State != Failed || c.Result != tc.want || !strings.Contains(c.Advice, tc.advice) {
				t.Errorf("%+v", c)
			}
		}
	}()
	<-done
}
