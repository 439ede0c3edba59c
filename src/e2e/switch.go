package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrNoSwitch tells that this machine has no Open vSwitch.
var ErrNoSwitch = errors.New("no Open vSwitch: install openvswitch-switch")

// Switch is an Open vSwitch of one host, with the userspace datapath: the kernel's module need not be there.
type Switch struct {
	host *Host
	Dir  string // of its database and sockets
}

// What runs the two daemons of a switch, in its directory.
const (
	StartDatabase = `ovsdb-server conf.db --remote=punix:db.sock --pidfile=$PWD/db.pid --unixctl=$PWD/db.ctl --log-file=$PWD/db.log -vconsole:off --detach`
	startSwitch   = `ovs-vswitchd unix:db.sock --pidfile=$PWD/vsw.pid --unixctl=$PWD/vsw.ctl --log-file=$PWD/vsw.log -vconsole:off --detach`
)

// StartSwitch starts one, without bridges. It ends with the host.
func (h *Host) StartSwitch() (*Switch, error) {
	for _, program := range []string{"ovsdb-server", "ovs-vswitchd"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%w (%w)", ErrNoSwitch, err)
		}
	}
	s := &Switch{h, filepath.Join(h.Dir, "ovs")}
	if err := os.Mkdir(s.Dir, 0o755); err != nil {
		return nil, err
	}
	_, err := s.Script("ovsdb-tool create conf.db /usr/share/openvswitch/vswitch.ovsschema\n" + StartDatabase + "\nvsctl --no-wait init\n" + startSwitch)
	return s, err
}

// Script runs shell lines on the host, in the directory of the switch; vsctl is its ovs-vsctl.
func (s *Switch) Script(lines string) (string, error) {
	out, err := s.host.Script(fmt.Sprintf(`cd %[1]s; export OVS_RUNDIR=%[1]s OVS_DBDIR=%[1]s OVS_LOGDIR=%[1]s OVS_SYSCONFDIR=%[1]s
		vsctl() { ovs-vsctl --timeout=60 --db=unix:%[1]s/db.sock "$@"; }
		%[2]s`, s.Dir, lines))
	return strings.TrimSpace(out), err
}

// Config makes an agent watch the switch, its rules too.
func (s *Switch) Config() string {
	return "ovs: {ovsdb: 'unix://" + s.Dir + "/db.sock', oflow: {enable: true}}\n"
}
