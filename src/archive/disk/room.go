package disk

import (
	"errors"
	"io"
	"os"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// patient is a file system whose writes wait for room on a full disk instead of failing: of a write that failed the engine makes the end
// of the process, in one way or the other, or it repeats it at once and for ever. wait is asked after each that found no room, and tells
// whether to try again; lost is told of those that failed for good, and does not return once the engine is open. Files are nobody else's
// to read.
type patient struct {
	vfs.FS
	dir  string
	wait func(error) bool
	lost func(error)
}

func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// retry repeats a step until it does not fail for want of room.
func (p *patient) retry(step func() error) error {
	for {
		err := step()
		switch {
		case err == nil, errors.Is(err, os.ErrExist):
			return err
		case errors.Is(err, os.ErrNotExist):
			if _, gone := p.FS.Stat(p.dir); gone == nil {
				return err // of a file; without its directory there is no archive
			}
		case full(err) && p.wait(err):
			continue
		}
		p.lost(err)
		return err
	}
}

func (p *patient) open(step func() (vfs.File, error)) (f vfs.File, err error) {
	err = p.retry(func() (err error) { f, err = step(); return err })
	if err != nil {
		return nil, err
	}
	return &patientFile{f, p}, nil
}

func (p *patient) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return p.open(func() (vfs.File, error) {
		f, err := p.FS.Create(name, category)
		if err == nil {
			if err = os.Chmod(name, 0o600); err != nil {
				return nil, errors.Join(err, f.Close())
			}
		}
		return f, err
	})
}

func (p *patient) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return p.open(func() (vfs.File, error) { return p.FS.OpenReadWrite(name, category, opts...) })
}

func (p *patient) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return p.open(func() (vfs.File, error) { return p.FS.ReuseForWrite(from, to, category) })
}

func (p *patient) OpenDir(name string) (vfs.File, error) {
	return p.open(func() (vfs.File, error) { return p.FS.OpenDir(name) })
}

func (p *patient) Link(from, to string) error {
	return p.retry(func() error { return p.FS.Link(from, to) })
}

func (p *patient) Rename(from, to string) error {
	return p.retry(func() error { return p.FS.Rename(from, to) })
}

func (p *patient) MkdirAll(dir string, perm os.FileMode) error {
	return p.retry(func() error { return p.FS.MkdirAll(dir, perm&0o700) })
}

func (p *patient) Lock(name string) (io.Closer, error) {
	lock, err := p.FS.Lock(name)
	if err == nil {
		if err = os.Chmod(name, 0o600); err != nil {
			return nil, errors.Join(err, lock.Close())
		}
	}
	return lock, err
}

func (p *patient) Unwrap() vfs.FS { return p.FS }

type patientFile struct {
	vfs.File
	fs *patient
}

func (f *patientFile) Write(b []byte) (written int, err error) {
	err = f.fs.retry(func() error {
		n, err := f.File.Write(b[written:])
		written += n
		return err
	})
	return written, err
}

func (f *patientFile) WriteAt(b []byte, at int64) (written int, err error) {
	err = f.fs.retry(func() error {
		n, err := f.File.WriteAt(b[written:], at+int64(written))
		written += n
		return err
	})
	return written, err
}

func (f *patientFile) Sync() error     { return f.fs.retry(f.File.Sync) }
func (f *patientFile) SyncData() error { return f.fs.retry(f.File.SyncData) }

func (f *patientFile) SyncTo(length int64) (all bool, err error) {
	err = f.fs.retry(func() error { all, err = f.File.SyncTo(length); return err })
	return all, err
}
