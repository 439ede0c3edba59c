// Package ovstest starts real Open vSwitch and OVN servers for tests: each in a directory of its own, with the userspace datapath, in a
// network namespace of the caller's choice. It needs the programs of the packages openvswitch-switch and ovn-central, and no system
// daemon; it touches none.
package ovstest

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Option changes how the servers are started.
type Option func(*Server)

// TCP makes ovsdb-server listen on a free port of 127.0.0.1, too.
func TCP(s *Server) { s.remotes = append(s.remotes, &remote{kind: "ptcp", port: "0"}) }

// TLS makes ovsdb-server listen with TLS on a free port of 127.0.0.1, with certificates made for it: see Server.TLS.
func TLS(s *Server) { s.secure = true }

// NoSwitch starts ovsdb-server only: rows are kept, but nothing is done about them.
func NoSwitch(s *Server) { s.noSwitch = true }

// Schema uses another file than vswitch.ovsschema, with the name of its database.
func Schema(file, database string) Option {
	return func(s *Server) { s.schema, s.database, s.noSwitch = file, database, true }
}

// Server is one ovsdb-server and, unless left out, one ovs-vswitchd.
type Server struct {
	DB     string // address of the database: unix:…
	Socket string // its path
	Dir    string // where the servers keep everything: <bridge>.mgmt too
	Netns  string

	remotes  []*remote
	secure   bool
	noSwitch bool
	schema   string
	database string
	keys     certificates
	ovsdb    *daemon
	vswitch  *daemon
}

// remote is where ovsdb-server listens besides its socket.
type remote struct{ kind, port string }

// daemon is a process that was started.
type daemon struct {
	*os.Process
	done chan struct{} // closed when it has ended
}

const (
	defaultSchema = "/usr/share/openvswitch/vswitch.ovsschema"
	patience      = 20 * time.Second
)

// Start starts the servers in a network namespace ("" for the present one) and stops them when the test ends. Without the programs or
// privileges the test is skipped; with SKYDIVE_CI=1 it fails.
func Start(t testing.TB, netns string, options ...Option) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "ovs") // short: the path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Server{Dir: dir, Socket: dir + "/db.sock", Netns: netns, schema: defaultSchema, database: "Open_vSwitch"}
	s.DB = "unix:" + s.Socket
	for _, o := range options {
		o(s)
	}
	need := []string{"ovsdb-server", "ovsdb-tool", "ovs-vsctl"}
	if !s.noSwitch {
		need = append(need, "ovs-vswitchd")
		if os.Geteuid() != 0 {
			Missing(t, "root is needed to run ovs-vswitchd")
		}
	}
	for _, program := range need {
		if _, err := exec.LookPath(program); err != nil {
			Missing(t, program+" is needed: install the package openvswitch-switch")
		}
	}
	if s.secure {
		s.makeCertificates(t)
		s.remotes = append(s.remotes, &remote{kind: "pssl", port: "0"})
	}
	s.Run(t, "ovsdb-tool", "create", s.path("conf.db"), s.schema)
	t.Cleanup(func() {
		s.vswitch.stop()
		s.ovsdb.stop()
	})
	s.StartDB(t)
	if s.database == "Open_vSwitch" {
		s.Vsctl(t, "--no-wait", "init")
	}
	s.StartSwitch(t)
	return s
}

// Missing skips a test for a reason, or fails it with SKYDIVE_CI=1.
func Missing(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("SKYDIVE_CI") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// StartDB starts ovsdb-server again after KillDB or StopDB.
func (s *Server) StartDB(t testing.TB) {
	t.Helper()
	args := []string{s.path("conf.db"), "--remote=p" + s.DB, "--unixctl=" + s.path("db.ctl"), "-vconsole:off", "-vfile:info",
		"--log-file=" + s.path("db.log"), "--no-chdir"}
	if s.secure {
		args = append(args, "--private-key="+s.keys.serverKey, "--certificate="+s.keys.serverCert, "--ca-cert="+s.keys.ca)
	}
	_ = os.Remove(s.Socket)
	s.ovsdb = s.start(t, "ovsdb-server", args...)
	s.wait(t, s.ovsdb, "db.log", func() bool { return s.answers(s.Socket) && s.answers(s.path("db.ctl")) })
	for taken, r := range s.remotes {
		s.Run(t, "ovs-appctl", "-t", s.path("db.ctl"), "ovsdb-server/add-remote", r.kind+":"+r.port+":127.0.0.1")
		if r.port == "0" {
			s.wait(t, s.ovsdb, "db.log", func() bool { r.port = s.loggedPort(t, taken); return r.port != "" })
		}
	}
}

// StartSwitch starts ovs-vswitchd again after KillSwitch, unless the server has none.
func (s *Server) StartSwitch(t testing.TB) {
	t.Helper()
	if s.noSwitch {
		return
	}
	s.vswitch = s.start(t, "ovs-vswitchd", s.DB, "--unixctl="+s.path("vswitchd.ctl"), "-vconsole:off", "-vfile:info",
		"--log-file="+s.path("vswitchd.log"), "--no-chdir")
	s.wait(t, s.vswitch, "vswitchd.log", func() bool { return s.answers(s.path("vswitchd.ctl")) })
}

// KillDB ends ovsdb-server as a crash does: its socket stays behind.
func (s *Server) KillDB(t testing.TB) { t.Helper(); s.ovsdb.end(t, syscall.SIGKILL) }

// StopDB ends ovsdb-server in order.
func (s *Server) StopDB(t testing.TB) { t.Helper(); s.ovsdb.end(t, syscall.SIGTERM) }

// KillSwitch ends ovs-vswitchd as a crash does.
func (s *Server) KillSwitch(t testing.TB) { t.Helper(); s.vswitch.end(t, syscall.SIGKILL) }

// PauseDB stops ovsdb-server from running, as if it hung, until resume is called.
func (s *Server) PauseDB(t testing.TB) (resume func()) {
	t.Helper()
	process := s.ovsdb
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resume = func() { _ = process.Signal(syscall.SIGCONT) }
	t.Cleanup(resume)
	return resume
}

// Vsctl runs ovs-vsctl and returns what it wrote. Bridges must be added with -- set bridge NAME datapath_type=netdev, as Bridge does.
func (s *Server) Vsctl(t testing.TB, args ...string) string {
	t.Helper()
	return s.Run(t, "ovs-vsctl", append([]string{"--db=" + s.DB, "--timeout=30"}, args...)...)
}

// Bridge adds bridges with the userspace datapath; or with another one, such as "system" where the kernel has the module, that the
// environment variable SKYDIVE_TEST_OVS_DATAPATH names.
func (s *Server) Bridge(t testing.TB, names ...string) {
	t.Helper()
	datapath := cmp.Or(os.Getenv("SKYDIVE_TEST_OVS_DATAPATH"), "netdev")
	for _, name := range names {
		s.Vsctl(t, "add-br", name, "--", "set", "bridge", name, "datapath_type="+datapath)
	}
}

// Ofctl runs ovs-ofctl in the directory of the servers: a bridge is named by Mgmt.
func (s *Server) Ofctl(t testing.TB, args ...string) string {
	t.Helper()
	return s.Run(t, "ovs-ofctl", args...)
}

// Appctl runs ovs-appctl on ovs-vswitchd.
func (s *Server) Appctl(t testing.TB, args ...string) string {
	t.Helper()
	return s.Run(t, "ovs-appctl", append([]string{"-t", s.path("vswitchd.ctl")}, args...)...)
}

// Mgmt is the OpenFlow address of a bridge.
func (s *Server) Mgmt(bridge string) string { return "unix:" + s.path(bridge+".mgmt") }

// TCP returns the address of the database over TCP, for a server started with the option of that name.
func (s *Server) TCP(t testing.TB) string { t.Helper(); return "tcp:127.0.0.1:" + s.port(t, "ptcp") }

// TLS returns the address of the database over TLS, and the files that a client needs.
func (s *Server) TLS(t testing.TB) (address, ca, cert, key string) {
	t.Helper()
	return "ssl:127.0.0.1:" + s.port(t, "pssl"), s.keys.ca, s.keys.clientCert, s.keys.clientKey
}

func (s *Server) port(t testing.TB, kind string) string {
	t.Helper()
	for _, r := range s.remotes {
		if r.kind == kind {
			return r.port
		}
	}
	t.Fatalf("ovsdb-server was not started with %s", kind)
	return ""
}

// loggedPort reads from the log of ovsdb-server which free port it took, after as many others; "" before that is written.
func (s *Server) loggedPort(t testing.TB, others int) string {
	t.Helper()
	log, err := os.ReadFile(s.path("db.log"))
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(log), ": listening on port ")
	if len(parts) < others+2 {
		return ""
	}
	port, _, whole := strings.Cut(parts[others+1], "\n")
	if !whole {
		return ""
	}
	return port
}

func (s *Server) path(name string) string { return filepath.Join(s.Dir, name) }

func (s *Server) command(program string, args ...string) *exec.Cmd {
	if s.Netns != "" {
		program, args = "ip", append([]string{"netns", "exec", s.Netns, program}, args...)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "OVS_RUNDIR="+s.Dir, "OVS_DBDIR="+s.Dir, "OVS_LOGDIR="+s.Dir, "OVS_SYSCONFDIR="+s.Dir)
	cmd.Dir = s.Dir
	return cmd
}

// Run runs a program of the packages with the directories of the servers, and returns what it wrote.
func (s *Server) Run(t testing.TB, program string, args ...string) string {
	t.Helper()
	out, err := s.command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return strings.TrimSuffix(string(out), "\n")
}

func (s *Server) start(t testing.TB, program string, args ...string) *daemon {
	t.Helper()
	cmd := s.command(program, args...)
	// A test that is killed takes its servers along. The kernel watches the thread that started them, so that is kept.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	d := &daemon{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		d.Process = cmd.Process
		started <- err
		if err == nil {
			_ = cmd.Wait() // servers are told to end, or their end is noticed by what they no longer do
			close(d.done)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return d
}

// wait waits until a server is up.
func (s *Server) wait(t testing.TB, d *daemon, log string, up func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !up() {
		why := "is not up"
		select {
		case <-tick.C:
			continue
		case <-d.done:
			why = "ended"
		case <-end:
		}
		text, _ := os.ReadFile(s.path(log))
		t.Fatalf("process %d %s\n%s", d.Pid, why, text)
	}
}

func (s *Server) answers(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

func (d *daemon) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := d.Signal(sig); err != nil {
		t.Fatal(err)
	}
	<-d.done
}

func (d *daemon) stop() {
	if d == nil {
		return
	}
	_ = d.Signal(syscall.SIGCONT)
	_ = d.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { _ = d.Kill() })
	<-d.done
	kill.Stop()
}

// Namespace makes a network namespace for a test, with its loopback up.
func Namespace(t testing.TB, name string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root is needed to make network namespaces")
	}
	remove := func() error {
		out, err := exec.Command("ip", "netns", "del", name).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if _, err := os.Stat("/run/netns/" + name); !errors.Is(err, fs.ErrNotExist) {
		if err := remove(); err != nil { // of a test that was killed
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"netns", "add", name}, {"-n", name, "link", "set", "lo", "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	return name
}
