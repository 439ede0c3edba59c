package netns

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// processes finds the namespaces that processes are in, by one readlink for each.
type processes struct {
	root   string
	device uint64          // of nsfs: the same for all namespaces
	kernel map[string]bool // by process directory: is it a kernel thread? Those are in the initial namespace and not asked
	turn   int
	buf    []byte
}

// forgetKernel is after how many scans the cache of kernel threads starts anew, so that a process that got the ID of a dead kernel
// thread is not overlooked for long.
const forgetKernel = 60

// scan returns the lowest process ID in each namespace, and whether processes did not let us look.
func (p *processes) scan() (lowest map[ID]int, hidden bool, err error) {
	dir, err := os.Open(p.root)
	if err != nil {
		return nil, false, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, false, err
	}
	if p.turn++; p.turn%forgetKernel == 1 {
		p.kernel = make(map[string]bool)
	}
	lowest = make(map[ID]int)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		kernel, known := p.kernel[name]
		if !known {
			kernel = isKernelThread(p.root + "/" + name)
			p.kernel[name] = kernel
		}
		if kernel {
			continue
		}
		id, err := p.of(name)
		if err == unix.EACCES || err == unix.EPERM {
			hidden = true
		}
		if err != nil {
			continue // the process has ended
		}
		if first, ok := lowest[id]; !ok || pid < first {
			lowest[id] = pid
		}
	}
	return lowest, hidden, nil
}

// of returns the namespace of a process, from a link that reads "net:[<inode>]".
func (p *processes) of(pid string) (ID, error) {
	if p.buf == nil {
		p.buf = make([]byte, 64)
	}
	n, err := unix.Readlink(p.root+"/"+pid+"/ns/net", p.buf)
	if err != nil {
		return ID{}, err
	}
	text, _ := bytes.CutPrefix(p.buf[:n], []byte("net:["))
	inode, err := strconv.ParseUint(string(bytes.TrimSuffix(text, []byte("]"))), 10, 64)
	return ID{Device: p.device, Inode: inode}, err
}

func (p *processes) command(pid int) string {
	comm, err := os.ReadFile(p.root + "/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(comm))
}

// isKernelThread reads the flags of a process (PF_KTHREAD of linux/sched.h, field 9 of proc_pid_stat(5)).
func isKernelThread(dir string) bool {
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return false
	}
	// pid (comm) state ppid pgrp session tty_nr tpgid flags …; comm may hold anything, parentheses too.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	const pfKthread = 0x00200000
	return err == nil && flags&pfKthread != 0
}

// sortNames puts names in order of their paths.
func sortNames(names []Name) {
	slices.SortFunc(names, func(a, b Name) int { return strings.Compare(a.Path, b.Path) })
}
