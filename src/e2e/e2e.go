// Package e2e runs the built skydive on hosts made of namespaces, and talks to it as its users do: REST, WebSocket and command line.
//
// A host is a network, mount and process namespace of its own, with its own /run/netns and no trace of a Skydive that is deployed on
// the machine, joined to the others by a bridge. Nothing leaves the machine, and nothing of the machine's own network is touched.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Lab is a set of hosts on one bridge. Close ends all of it.
type Lab struct {
	Binary string // the skydive under test
	Dir    string // scratch directory, removed by Close
	hub    *Host  // holds the bridge, so that the machine's own namespace sees nothing
	hosts  []*Host
}

// Binary returns the skydive to test: $SKYDIVE_BINARY, or build/skydive of this checkout.
func Binary() (string, error) {
	path := os.Getenv("SKYDIVE_BINARY")
	if path == "" {
		dir, err := os.Getwd()
		if err != nil {
			return "", err
		}
		for ; ; dir = filepath.Dir(dir) {
			path = filepath.Join(dir, "build", "skydive")
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil || dir == "/" {
				break
			}
		}
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("no skydive to test (run make build): %w", err)
	}
	return path, nil
}

// NewLab makes an empty lab; it needs root.
func NewLab() (*Lab, error) {
	binary, err := Binary()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("hosts are made of namespaces, which needs root")
	}
	dir, err := os.MkdirTemp("", "skydive-e2e-")
	if err != nil {
		return nil, err
	}
	l := &Lab{Binary: binary, Dir: dir}
	if l.hub, err = l.newHost("hub"); err == nil {
		_, err = l.hub.Run("ip", "link", "add", "hub", "type", "bridge")
	}
	if err == nil {
		_, err = l.hub.Run("ip", "link", "set", "hub", "up")
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close ends every process of the lab and removes its namespaces and files.
func (l *Lab) Close() {
	for _, h := range l.hosts {
		h.close()
	}
	if l.hub != nil {
		l.hub.close()
	}
	os.RemoveAll(l.Dir)
}

// Host is a machine of the lab.
type Host struct {
	Name string
	IP   string // address on the bridge; "" for the hub
	Dir  string // scratch directory
	lab  *Lab
	init *exec.Cmd // first process: holds the namespaces
	keep io.Closer // its standard input; closing it ends the host

	mu        sync.Mutex
	processes []*Process
}

// AddHost makes a host with one interface, eth0, on the bridge.
func (l *Lab) AddHost(name string) (*Host, error) {
	h, err := l.newHost(name)
	if err != nil {
		return nil, err
	}
	l.hosts = append(l.hosts, h)
	n := len(l.hosts)
	h.IP = fmt.Sprintf("10.111.0.%d", n)
	for _, cmd := range []struct {
		on   *Host
		args string
	}{
		{l.hub, fmt.Sprintf("ip link add port%d type veth peer name eth0 netns %d", n, h.pid())},
		{l.hub, fmt.Sprintf("ip link set port%d master hub up", n)},
		{h, "ip addr add " + h.IP + "/24 dev eth0"},
		{h, "ip link set eth0 up"},
	} {
		if err := cmd.on.wire(cmd.args); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Connect takes the host off the network, or puts it back.
func (h *Host) Connect(on bool) error {
	state := "down"
	if on {
		state = "up"
	}
	return h.lab.hub.wire("ip link set port" + h.IP[strings.LastIndexByte(h.IP, '.')+1:] + " " + state)
}

// wire runs a command in the host's network, but among the machine's processes, so that it can name those of other hosts.
func (h *Host) wire(args string) error {
	enter := []string{fmt.Sprintf("--net=/proc/%d/ns/net", h.pid()), "--"}
	out, err := exec.Command("nsenter", append(enter, strings.Fields(args)...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %s: %w: %s", h.Name, args, err, out)
	}
	return nil
}

func (l *Lab) newHost(name string) (*Host, error) {
	h := &Host{Name: name, lab: l, Dir: filepath.Join(l.Dir, name)}
	if err := os.Mkdir(h.Dir, 0o755); err != nil {
		return nil, err
	}
	// The first process ends with its input, so that even a killed test leaves no host behind.
	h.init = exec.Command("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c",
		"mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/netns && ip link set lo up && "+
			"for dir in /etc/skydive /var/lib/skydive; do [ ! -d $dir ] || mount -t tmpfs tmpfs $dir; done && echo ready && cat")
	in, err := h.init.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := h.init.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var complaint bytes.Buffer
	h.init.Stderr = &complaint
	if err := h.init.Start(); err != nil {
		return nil, err
	}
	h.keep = in
	ready := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(out, ready); err != nil {
		h.close()
		return nil, fmt.Errorf("start host %s: %w: %s", name, err, &complaint)
	}
	return h, nil
}

// pid returns the host's first process as the machine sees it: the only child of unshare.
func (h *Host) pid() int {
	parent := h.init.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(children)))
	return pid
}

func (h *Host) close() {
	h.mu.Lock()
	processes := h.processes
	h.mu.Unlock()
	for _, p := range processes {
		p.Kill()
	}
	h.keep.Close()
	h.init.Wait()
}

// Command prepares a command on the host.
func (h *Host) Command(ctx context.Context, args ...string) *exec.Cmd {
	// Entering a mount namespace moves to its root, unless told where to go.
	enter := []string{"--target", strconv.Itoa(h.pid()), "--net", "--mount", "--pid", "--wd=" + h.Dir, "--"}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
}

// Run runs a command on the host and returns its standard output; an error holds its standard error.
func (h *Host) Run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := h.Command(ctx, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %s: %w: %s", h.Name, strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// Script runs shell lines on the host, ending with the first that fails.
func (h *Host) Script(lines string) (string, error) { return h.Run("sh", "-ec", lines) }

// Process is a running program of a host.
type Process struct {
	Name string
	Log  string // file with its output
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts skydive on the host with a configuration (YAML, may be empty) and arguments; its output goes to a file.
func (h *Host) Start(config string, args ...string) (*Process, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	name := fmt.Sprintf("%s-%d", args[0], len(h.processes))
	if config != "" {
		file := filepath.Join(h.Dir, name+".yml")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--conf", file)
	}
	log, err := os.Create(filepath.Join(h.Dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &Process{Name: name, Log: log.Name(), done: make(chan struct{})}
	p.cmd = h.Command(context.Background(), append([]string{h.lab.Binary}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	h.processes = append(h.processes, p)
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID returns the process as the machine sees it: nsenter forks to enter a process namespace.
func (p *Process) PID() int {
	parent := p.cmd.Process.Pid
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if pid, err := strconv.Atoi(strings.TrimSpace(string(children))); err == nil {
		return pid
	}
	return parent
}

// Signal sends a signal to the program itself.
func (p *Process) Signal(s syscall.Signal) error {
	err := syscall.Kill(p.PID(), s)
	if s == syscall.SIGCONT { // nsenter stops together with its child, but does not continue with it
		p.cmd.Process.Signal(s)
	}
	return err
}

// Kill ends the program as kill -9 does and waits for it.
func (p *Process) Kill() {
	select {
	case <-p.done:
		return
	default:
	}
	p.Signal(syscall.SIGKILL)
	p.Signal(syscall.SIGCONT)
	<-p.done
}

// Wait waits until the program ended by itself and returns how, or an error when it goes on longer than told.
func (p *Process) Wait(limit time.Duration) error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(limit):
		return fmt.Errorf("%s still runs after %s", p.Name, limit)
	}
}

// Output returns what the program wrote.
func (p *Process) Output() string {
	text, _ := os.ReadFile(p.Log)
	return string(text)
}

// Usage is what a process has used so far.
type Usage struct {
	CPU     time.Duration // user and system
	RSS     int64         // bytes now
	PeakRSS int64         // bytes
	Files   int           // open descriptors
}

// Usage reads the figures of the process from /proc.
func (p *Process) Usage() (Usage, error) { return UsageOf(p.PID()) }

// UsageOf reads the figures of any process.
func UsageOf(pid int) (Usage, error) {
	var u Usage
	// The clock of the process (clock_getcpuclockid(3)): exact, where /proc counts ticks of 10 ms.
	var cpu unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &cpu); err != nil {
		return u, fmt.Errorf("read CPU time of process %d: %w", pid, err)
	}
	u.CPU = time.Duration(cpu.Nano())
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			u.RSS = n << 10
		case "VmHWM:":
			u.PeakRSS = n << 10
		}
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	u.Files = len(files)
	return u, err
}

// Until asks cond again and again until it says nil, or returns its last error after the limit.
func Until(limit time.Duration, cond func() error) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return nil
		}
		select {
		case <-deadline.C:
			return fmt.Errorf("after %s: %w", limit, err)
		case <-tick.C:
		}
	}
}
