package disk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const lockName = "skydive.lock"

// lock is the file that says who holds the directory, and when that process last wrote the archive: a line of fixed length, so that it can
// be written over in place even on a full disk. It is not part of the engine's log because that hands records to the system in blocks:
// what was written a minute ago may be lost with the process, unless it is synced, and a sync per second wears disks out.
type lock struct {
	file  *os.File
	alive int64 // ms: until when the last process lived, or may have; 0: there was none
}

// lockLine is the length of the line: a process, a time and the end of the line.
const lockLine = 32

// hold makes the directory and takes its lock.
func hold(path string) (*lock, error) {
	refuse := func(err error) error { return unwritable(path, err) }
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, refuse(err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, refuse(err)
	}
	ours := true
	for _, e := range entries {
		if e.Name() == lockName {
			ours = true
			break
		}
		ours = ours && e.Name() == "lost+found"
	}
	if !ours {
		return nil, fmt.Errorf("archive %s: the directory holds other files: give another path, one that is empty or an archive", path)
	}
	file, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, refuse(err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer file.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, refuse(err)
		}
		holder := "unknown"
		if words := lockWords(file); len(words) > 0 {
			holder = words[0]
		}
		return nil, fmt.Errorf("archive %s is in use by process %s: stop that, or give each its own path", path, holder)
	}
	l := &lock{file: file}
	if words := lockWords(file); len(words) == 2 {
		if ms, err := strconv.ParseInt(words[1], 10, 64); err == nil && ms > 0 {
			l.alive = ms
			if words[0] != nobody {
				// Killed: some time within the second after it last said so. What was then is what people ask for.
				l.alive += aliveEvery.Milliseconds()
			}
		}
	}
	// Not before the lock is held: a directory in use is not ours to change.
	err = errors.Join(os.Chmod(path, 0o700), file.Chmod(0o600))
	if err == nil {
		if err = l.mark(strconv.Itoa(os.Getpid()), l.alive); full(err) { // a full disk stops the archive, not its start
			err = nil
		}
	}
	if err != nil {
		return nil, errors.Join(refuse(err), file.Close())
	}
	return l, nil
}

// lockWords are the process and the time in the lock, as far as they are there.
func lockWords(file *os.File) []string {
	line := make([]byte, lockLine)
	n, _ := file.ReadAt(line, 0)
	return strings.Fields(string(line[:n]))
}

// nobody stands in place of the process once it ended.
const nobody = "-"

// mark notes that the archive was written at a time, and by whom.
func (l *lock) mark(holder string, ms int64) error {
	_, err := l.file.WriteAt(fmt.Appendf(nil, "%-10s %20d\n", holder, ms), 0)
	return err
}

func unwritable(path string, err error) error {
	return fmt.Errorf("archive %s is not writable: %w; let the user that runs this program write there, or give another path", path, err)
}
