package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// Config says where namespaces are looked for.
type Config struct {
	RunPath  string // directory of named namespaces; it may come and go. Empty: none
	ProcPath string // mount of procfs whose processes are asked. Empty: none
}

// View is every namespace at one moment.
type View struct {
	Namespaces []Namespace // by inode
	Hidden     bool        // there are processes whose namespace we may not see
}

// Watcher reports the namespaces of a host and their changes.
type Watcher struct {
	cfg    Config
	log    *slog.Logger
	rescan chan struct{}
}

const (
	// sweep is the time between two looks at all names, which are otherwise followed by inotify, and at one process of each namespace
	// that has no name. All processes are looked at each scanEvery.
	sweep     = time.Second
	scanEvery = 2 * time.Second
	// scanShare limits the scan of processes to one part of this many of the time, on hosts with very many of them; burstShare does
	// while names come and go.
	scanShare  = 100
	burstShare = 5
	// settle is how long a scan of processes waits for more reasons to come up, hinted how long after the last one a mere hint does.
	settle = 20 * time.Millisecond
	hinted = 250 * time.Millisecond
	// retryFirst and retryLast bound the waits for a new file in the run path to become a namespace: it is made before it is
	// mounted on, and a mount is not notified. After the last the sweep goes on looking.
	retryFirst = 2 * time.Millisecond
	retryLast  = 512 * time.Millisecond
	// freshReads is how often the command of a process that is new to us is read: it is often about to exec another.
	freshReads = 5
)

// New returns a watcher.
func New(cfg Config, log *slog.Logger) *Watcher {
	if cfg.RunPath != "" {
		cfg.RunPath = filepath.Clean(cfg.RunPath)
	}
	return &Watcher{cfg: cfg, log: log, rescan: make(chan struct{}, 1)}
}

// Rescan asks for the processes to be looked at soon, because something hints at a namespace that is not known.
func (w *Watcher) Rescan() {
	select {
	case w.rescan <- struct{}{}:
	default: // one is due already
	}
}

// Run calls report with all namespaces at first and after each change, until ctx ends. report must not block for long.
func (w *Watcher) Run(ctx context.Context, report func(View)) error {
	notify, err := fsnotify.NewBufferedWatcher(256)
	if err != nil {
		return fmt.Errorf("watch network namespaces: %w", err)
	}
	defer notify.Close()
	own, err := PathID("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("watch network namespaces: %w", err)
	}
	s := &state{
		cfg: w.cfg, log: w.log, notify: notify,
		named:   make(map[string]ID),
		dropped: make(map[string]bool),
		pending: make(map[string]time.Duration),
		procs:   processes{root: w.cfg.ProcPath, device: own.Device},
		retry:   time.NewTimer(time.Hour),
		scan:    time.NewTimer(time.Hour),
	}
	defer s.retry.Stop()
	defer s.scan.Stop()
	tick := time.NewTicker(sweep)
	defer tick.Stop()

	s.sweepNames()
	s.scanProcesses()
	s.changed = false
	report(s.view())
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-notify.Events:
			s.event(ev)
			for range len(notify.Events) {
				s.event(<-notify.Events)
			}
		case err := <-notify.Errors: // most likely an overflow of its queue
			s.log.Warn("watch of network namespaces lost events", "error", err)
			s.sweepNames()
		case <-s.retry.C:
			s.retryPending()
		case <-w.rescan:
			s.scanIn(max(settle, time.Until(s.scanned.Add(hinted))))
		case <-s.scan.C:
			s.scanDue = false
			s.scanProcesses()
		case <-tick.C:
			s.sweepNames()
			if s.scanWanted() {
				s.scanProcesses()
			} else {
				s.readCommands()
			}
		}
		if s.changed {
			s.changed = false
			report(s.view())
		}
	}
}

// state belongs to the goroutine of Run.
type state struct {
	cfg    Config
	log    *slog.Logger
	notify *fsnotify.Watcher

	changed bool            // since the last report
	watched uint64          // inode of the run path that is watched; 0: a directory above it is
	named   map[string]ID   // by path
	dropped map[string]bool // names of named that are gone, until the next scan of processes
	pending map[string]time.Duration
	retry   *time.Timer

	procs    processes
	pids     map[ID]int
	hidden   bool
	commands map[ID]command
	scan     *time.Timer
	scanDue  bool
	scanned  time.Time // when the last scan ended
	scanTook time.Duration
	nextScan time.Time
}

type command struct {
	pid   int
	name  string
	reads int
}

// view puts together what is known.
func (s *state) view() View {
	all := make(map[ID]*Namespace, len(s.named)+len(s.pids))
	get := func(id ID) *Namespace {
		n := all[id]
		if n == nil {
			n = &Namespace{ID: id, PID: s.pids[id], proc: s.cfg.ProcPath}
			all[id] = n
		}
		return n
	}
	for path, id := range s.named {
		n := get(id)
		n.Names = append(n.Names, Name{Name: filepath.Base(path), Path: path})
	}
	for id := range s.pids {
		n := get(id)
		if len(n.Names) == 0 {
			n.Command = s.commands[id].name
		}
	}
	v := View{Namespaces: make([]Namespace, 0, len(all)), Hidden: s.hidden}
	for _, n := range all {
		sortNames(n.Names)
		v.Namespaces = append(v.Namespaces, *n)
	}
	slices.SortFunc(v.Namespaces, compare)
	return v
}

func (s *state) event(ev fsnotify.Event) {
	if run := s.cfg.RunPath; filepath.Dir(ev.Name) != run || s.watched == 0 {
		if ev.Name == run && ev.Has(fsnotify.Remove) {
			s.watched = 0 // its inode number may be used again
		}
		s.sweepNames() // the run path itself, or what leads to it
		return
	}
	if ev.Has(fsnotify.Create) || ev.Has(fsnotify.Remove) || ev.Has(fsnotify.Rename) {
		s.look(ev.Name)
	}
}

// look finds out what a path of the run path is now.
func (s *state) look(path string) {
	id, err := PathID(path)
	switch {
	case err == nil:
		delete(s.pending, path)
		s.setName(path, id)
	case errors.Is(err, fs.ErrInvalid):
		s.dropName(path)
		if _, waits := s.pending[path]; !waits {
			s.pending[path] = retryFirst
			s.retry.Reset(retryFirst)
		}
	default:
		delete(s.pending, path)
		s.dropName(path)
	}
}

func (s *state) setName(path string, id ID) {
	if old, ok := s.named[path]; ok && old != id {
		s.scanSoon()
	}
	delete(s.dropped, path)
	if s.named[path] != id {
		s.named[path] = id
		s.changed = true
	}
}

// dropName forgets a name, after a scan has told whether a process still holds the namespace: it must not seem to go and come back.
func (s *state) dropName(path string) {
	if _, ok := s.named[path]; ok && !s.dropped[path] {
		s.dropped[path] = true
		s.scanSoon()
	}
}

func (s *state) forgetDropped() {
	for path := range s.dropped {
		delete(s.named, path)
		s.changed = true
	}
	clear(s.dropped)
}

func (s *state) retryPending() {
	var next time.Duration
	for path, wait := range maps.Clone(s.pending) {
		id, err := PathID(path)
		switch {
		case err == nil:
			s.setName(path, id)
			fallthrough
		case !errors.Is(err, fs.ErrInvalid), wait >= retryLast:
			delete(s.pending, path)
		default:
			s.pending[path] = 2 * wait
			if next == 0 || 2*wait < next {
				next = 2 * wait
			}
		}
	}
	if next > 0 {
		s.retry.Reset(next)
	}
}

// sweepNames reads the whole run path, after making sure that it is watched.
func (s *state) sweepNames() {
	if s.cfg.RunPath == "" {
		return
	}
	s.watch()
	entries, err := os.ReadDir(s.cfg.RunPath)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Debug("cannot read directory of network namespaces", "error", err)
	}
	seen := make(map[string]bool, len(entries))
	for _, e := range entries {
		path := filepath.Join(s.cfg.RunPath, e.Name())
		if id, known := s.named[path]; known && isStill(path, id) {
			seen[path] = true
		} else if id, err := PathID(path); err == nil {
			seen[path] = true
			s.setName(path, id)
		}
	}
	for path := range s.named {
		if !seen[path] {
			s.dropName(path)
		}
	}
}

// isStill is the cheap half of PathID, for what is known to be a namespace.
func isStill(path string, id ID) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && idOf(&st) == id
}

// watch sets the inotify watch on the run path or, while that does not exist, on the closest directory above it.
func (s *state) watch() {
	for {
		var st unix.Stat_t
		exists := unix.Stat(s.cfg.RunPath, &st) == nil
		dir, inode := s.cfg.RunPath, st.Ino
		if !exists {
			dir, inode = s.above(), 0
		}
		watched := s.notify.WatchList()
		if s.watched == inode && slices.Contains(watched, dir) {
			return
		}
		for _, old := range watched {
			_ = s.notify.Remove(old) // fails when the directory is gone, which is as good
		}
		s.watched = 0
		if err := s.notify.Add(dir); err != nil {
			s.log.Debug("cannot watch directory", "path", dir, "error", err)
			return // the sweeps go on
		}
		s.watched = inode
		// It may have come or gone before it was watched: look again.
	}
}

// above returns the closest directory above the run path that exists.
func (s *state) above() string {
	dir := filepath.Dir(s.cfg.RunPath)
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" || dir == "." {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func (s *state) scanSoon() { s.scanIn(settle) }

// scanIn has the processes scanned after a while, or earlier if that is due already.
func (s *state) scanIn(wait time.Duration) {
	if !s.scanDue {
		s.scanDue = true
		s.scan.Reset(max(wait, burstShare*s.scanTook))
	}
}

// scanWanted tells at a tick whether to scan: always, unless there are so many processes that it would cost too much; then when the
// process by which a namespace is known is no longer in it.
func (s *state) scanWanted() bool {
	if !time.Now().Before(s.nextScan) {
		return true
	}
	for id, c := range s.commands {
		if now, err := s.procs.of(strconv.Itoa(c.pid)); err != nil || now != id {
			return true
		}
	}
	return false
}

func (s *state) scanProcesses() {
	defer s.forgetDropped() // whatever comes
	if s.cfg.ProcPath == "" {
		return
	}
	start := time.Now()
	pids, hidden, err := s.procs.scan()
	s.scanned = time.Now()
	s.scanTook = s.scanned.Sub(start)
	s.nextScan = start.Add(min(max(scanEvery-sweep/2, scanShare*s.scanTook), 10*time.Second))
	if err != nil {
		s.log.Debug("cannot list processes", "error", err)
		return
	}
	s.changed = s.changed || hidden != s.hidden || !maps.Equal(pids, s.pids)
	s.pids, s.hidden = pids, hidden
	s.forgetDropped()
	named := make(map[ID]bool, len(s.named))
	for _, id := range s.named {
		named[id] = true
	}
	commands := make(map[ID]command)
	for id, pid := range pids {
		if c := s.commands[id]; !named[id] && c.pid == pid {
			commands[id] = c
		} else if !named[id] {
			commands[id] = command{pid: pid}
		}
	}
	s.commands = commands
	s.readCommands()
}

func (s *state) readCommands() {
	for id, c := range s.commands {
		if c.reads == freshReads {
			continue
		}
		c.reads++
		if name := s.procs.command(c.pid); name != "" && name != c.name {
			c.name = name
			s.changed = true
		}
		s.commands[id] = c
	}
}

// String tells names for logs.
func (n Namespace) String() string {
	if len(n.Names) == 0 {
		return n.Command + "-" + strconv.Itoa(n.PID)
	}
	names := make([]string, len(n.Names))
	for i, name := range n.Names {
		names[i] = name.Name
	}
	return strings.Join(names, ",")
}
