package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// recap finds the count in the last lines of ansible-playbook.
var recap = regexp.MustCompile(`\bchanged=(\d+)`)

// measurePlaybook deploys analyzer and agent twice on a host of the lab. The host sees the machine's files through an overlay, so that
// nothing that the playbook writes, and no service that it starts, outlives the lab or meets a Skydive deployed on the machine.
func measurePlaybook(r *run) ([]value, error) {
	if _, err := exec.LookPath("ansible-playbook"); err != nil {
		return nil, leftOut("ansible-core is not installed")
	}
	root, err := checkout()
	if err != nil {
		return nil, leftOut(err.Error())
	}
	r.hosts++
	host, err := r.lab.AddHost("h" + strconv.Itoa(r.hosts))
	if err != nil {
		return nil, err
	}
	if _, err := host.Script(`
		# PID 1 is a shell, which lets Ansible guess from what is installed; this host has no systemd.
		echo lab > /run/comm && mount --bind /run/comm /proc/1/comm
		for d in /etc /usr /var /opt /root /home /srv; do
			[ -d $d ] || continue
			mkdir -p /run/overlay$d/upper /run/overlay$d/work
			mount -t overlay -o lowerdir=$d,upperdir=/run/overlay$d/upper,workdir=/run/overlay$d/work overlay $d
		done`); err != nil {
		return nil, leftOut("the playbook can not be kept away from the machine's files: " + err.Error())
	}
	ctx, cancel := context.WithTimeout(r.ctx, 5*time.Minute)
	defer cancel()
	play := func() (value, int, error) {
		cmd := host.Command(ctx, "sh", "-c", `cd "$0" && exec ansible-playbook -i inventory/hosts.localhost playbook.yml.sample`, root)
		begin := time.Now()
		out, err := cmd.CombinedOutput()
		took := time.Since(begin)
		if err != nil {
			return value{}, 0, fmt.Errorf("ansible-playbook: %w\n%s", err, out[max(0, len(out)-2000):])
		}
		found := recap.FindAllSubmatch(out, -1)
		if len(found) == 0 {
			return value{}, 0, fmt.Errorf("ansible-playbook tells no changes:\n%s", out[max(0, len(out)-2000):])
		}
		changed, err := strconv.Atoi(string(found[len(found)-1][1]))
		return value{Today: took.Seconds(), CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), Note: fmt.Sprintf("%d changed", changed)}, changed, err
	}
	first, _, err := play()
	if err != nil {
		return nil, err
	}
	second, changed, err := play()
	return []value{first, second, {Today: float64(changed)}}, err
}

// checkout returns the root of the source tree that the program was started in.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "playbook.yml.sample")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no playbook.yml.sample here or above")
}
