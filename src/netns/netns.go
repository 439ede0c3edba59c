// Package netns lists, watches and enters network namespaces.
//
// A namespace is known by the device and inode of its nsfs file, never by a path: it may have several names (bind mounts or links
// in a directory such as /run/netns) or none at all, when only processes are in it. It exists here as long as a name leads to it
// or a process is in it. The package keeps no file of a namespace open, so it never keeps one alive.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrGone tells that a namespace no longer exists, or not where it was seen last.
var ErrGone = errors.New("network namespace is gone")

// ID identifies a namespace while it exists; the kernel may use it again later.
type ID struct{ Device, Inode uint64 }

// Name is one name of a namespace: a bind mount of it or a symbolic link to it.
type Name struct {
	Name string // last element of Path
	Path string
}

// Namespace is what is known of a namespace at one moment.
type Namespace struct {
	ID      ID
	Names   []Name // by path; empty when only processes hold the namespace
	PID     int    // lowest process ID in it; 0 when no process was seen in it
	Command string // command name (comm) of PID; only of namespaces without a name
	proc    string // where processes are, such as /proc
}

// Path returns a path that leads to the namespace: that of its first name or else of its process.
func (n Namespace) Path() string {
	if len(n.Names) > 0 {
		return n.Names[0].Path
	}
	return n.procPath()
}

func (n Namespace) procPath() string {
	return filepath.Join(n.proc, strconv.Itoa(n.PID), "ns/net")
}

// Open opens the namespace, by whichever path still leads to it. While the file is open the namespace cannot go away. It returns
// ErrGone when no path leads to it, and fs.ErrPermission when one might.
func (n Namespace) Open() (*os.File, error) {
	gone := ErrGone
	paths := make([]string, 0, len(n.Names)+1)
	for _, name := range n.Names {
		paths = append(paths, name.Path)
	}
	if n.PID != 0 {
		paths = append(paths, n.procPath())
	}
	for _, path := range paths {
		f, err := OpenPath(path)
		if errors.Is(err, fs.ErrPermission) {
			gone = err
		}
		if err != nil {
			continue
		}
		if id, err := FileID(f); err == nil && id == n.ID {
			return f, nil
		}
		f.Close()
	}
	return nil, gone
}

// OpenPath opens a namespace by a path to it, such as /proc/self/ns/net.
func OpenPath(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY, 0)
}

// FileID returns which namespace an open file is.
func FileID(f *os.File) (ID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return ID{}, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return idOf(&st), nil
}

// PathID returns which namespace a path leads to. It returns fs.ErrInvalid for a path to something else: told by the magic number
// of nsfs, since comparing devices with the directory fails where that directory is itself a bind mount.
func PathID(path string) (ID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ID{}, fmt.Errorf("stat %s: %w", path, err)
	}
	var sfs unix.Statfs_t
	if err := unix.Statfs(path, &sfs); err != nil {
		return ID{}, fmt.Errorf("statfs %s: %w", path, err)
	}
	if sfs.Type != unix.NSFS_MAGIC {
		return ID{}, fmt.Errorf("%s is not a namespace: %w", path, fs.ErrInvalid)
	}
	return idOf(&st), nil
}

func idOf(st *unix.Stat_t) ID { return ID{Device: uint64(st.Dev), Inode: st.Ino} }

func compare(a, b Namespace) int {
	switch {
	case a.ID.Inode < b.ID.Inode:
		return -1
	case a.ID.Inode > b.ID.Inode:
		return 1
	}
	return 0
}

// Equal tells whether two say the same.
func (n Namespace) Equal(other Namespace) bool {
	return n.ID == other.ID && n.PID == other.PID && n.Command == other.Command && slices.Equal(n.Names, other.Names)
}

// Do runs fn on an OS thread that is in the namespace opened as ns. Sockets that fn opens belong to the namespace for good;
// goroutines that it starts are not in it. The caller needs CAP_SYS_ADMIN. The thread is thrown away when it cannot be brought
// back to where it came from. It is never the first thread of the process, whose namespace others take for that of the process, and
// which cannot be thrown away.
func Do(ns *os.File, fn func() error) error {
	var err error
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			other := make(chan struct{})
			go func() { // must run on another thread while this one is kept
				defer close(other)
				runtime.LockOSThread()
				panicked, err = enter(ns, fn)
			}()
			<-other
			return
		}
		panicked, err = enter(ns, fn)
	}()
	<-done
	if panicked != nil {
		panic(panicked) // where the caller can recover it
	}
	return err
}

// enter does it on the calling thread, which is locked; it unlocks the thread when that is where it was before.
func enter(ns *os.File, fn func() error) (panicked any, err error) {
	home, err := OpenPath("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer home.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("enter network namespace: %w", err)
	}
	defer func() {
		panicked = recover()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return nil, fn()
}
