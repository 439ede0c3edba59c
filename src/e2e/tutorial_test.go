package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// block is what a tutorial has its reader type, and what is shown then.
type block struct {
	line       int
	host       string // on which it is typed; "" where there is one only
	text, want string
	shows      bool // want was given
}

// readTutorial takes the fenced blocks out of a page: "sh [HOST]" is typed, "text" is what the block before shows; "console" is for people.
func readTutorial(t testing.TB, name string) []block {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
	need(t, err)
	var blocks []block
	lines := strings.Split(string(text), "\n")
	for i := 0; i < len(lines); i++ {
		info, fence := strings.CutPrefix(lines[i], "```")
		if !fence {
			continue
		}
		start := i + 1
		for i++; i < len(lines) && lines[i] != "```"; i++ {
		}
		body := strings.Join(lines[start:min(i, len(lines))], "\n")
		kind, host, _ := strings.Cut(info, " ")
		switch last := len(blocks) - 1; {
		case kind == "console":
		case kind == "sh":
			blocks = append(blocks, block{line: start, host: host, text: body})
		case kind == "text" && last >= 0 && !blocks[last].shows:
			blocks[last].want, blocks[last].shows = body, true
		default:
			t.Fatalf("%s:%d: a block %q is neither run nor shown by one that is", name, start, info)
		}
	}
	return blocks
}

// matches tells whether a block showed what the page says; … stands for anything.
func (b block) matches(got string) bool {
	if !b.shows {
		return true
	}
	pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(b.want)), "…", ".*")
	return regexp.MustCompile("(?s)^" + pattern + "$").MatchString(strings.TrimSpace(got))
}

// asks tells whether the block may be typed again until the answer is there: all that it does is to ask.
func (b block) asks() bool {
	for line := range strings.Lines(b.text) {
		if !slices.ContainsFunc([]string{"skydive client query ", "skydive client flow list ", "curl -s "}, func(ask string) bool { return strings.HasPrefix(line, ask) }) {
			return false
		}
	}
	return true
}

// terminal is a shell of root on a host that has a name of its own and may be changed: /etc is a copy, /usr/local/bin holds nothing but
// skydive, /var/lib nothing at all. The working directory looks like a checkout after make build.
type terminal struct {
	in    io.Writer
	lines chan string // of what it shows; closed when it ended
}

// done ends what a block shows.
const done = "--- done ---"

func (h *Host) terminal(t testing.TB) *terminal {
	t.Helper()
	need(t, os.Mkdir(filepath.Join(h.Dir, "build"), 0o755))
	need(t, os.Symlink(h.lab.Binary, filepath.Join(h.Dir, "build", "skydive")))
	script(t, h, `mkdir /run/etc /run/bin
		cp -a /etc/. /run/etc
		mount --bind /run/etc /etc
		rm -rf /etc/skydive
		mount --bind /run/bin /usr/local/bin
		cp build/skydive /usr/local/bin
		mount -t tmpfs tmpfs /var/lib`)
	cmd := h.Command(context.Background(), "unshare", "--uts", "sh", "-c", "hostname "+h.Name+" && exec bash -e 2>&1")
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SKYDIVE_") })
	in, err := cmd.StdinPipe()
	need(t, err)
	out, err := cmd.StdoutPipe()
	need(t, err)
	need(t, cmd.Start())
	s := &terminal{in, make(chan string, 1000)}
	go func() {
		scanner := bufio.NewScanner(out)
		for scanner.Scan() {
			s.lines <- scanner.Text()
		}
		close(s.lines)
	}()
	t.Cleanup(func() {
		if logs, _ := filepath.Glob(filepath.Join(h.Dir, "*.log")); t.Failed() {
			for _, log := range logs {
				text, _ := os.ReadFile(log)
				t.Logf("--- %s of %s:\n%s", filepath.Base(log), h.Name, tail(string(text), 20))
			}
		}
		cmd.Process.Kill() // what it started ends with the host
		cmd.Wait()
	})
	return s
}

// run types lines and returns what they show; one that fails ends the terminal.
func (s *terminal) run(text string) (string, error) {
	if _, err := fmt.Fprintf(s.in, "%s\necho '%s'\n", text, done); err != nil {
		return "", err
	}
	limit := time.NewTimer(60 * time.Second)
	defer limit.Stop()
	var shown strings.Builder
	for {
		select {
		case line, open := <-s.lines:
			switch {
			case line == done:
				return shown.String(), nil
			case !open:
				return shown.String(), errors.New("a command failed")
			}
			shown.WriteString(line + "\n")
		case <-limit.C:
			return shown.String(), errors.New("a command does not end")
		}
	}
}

func follow(t *testing.T, page string, terminals map[string]*terminal) {
	for _, b := range readTutorial(t, page) {
		s := terminals[b.host]
		if s == nil {
			t.Fatalf("%s:%d: there is no host %q", page, b.line, b.host)
		}
		need(t, Until(20*time.Second, func() error {
			got, err := s.run(b.text)
			where := fmt.Sprintf("%s:%d:\n%s\n--- shows\n%s", page, b.line, b.text, got)
			if err == nil && b.matches(got) {
				return nil
			}
			if err != nil || !b.asks() {
				t.Fatal(err, where)
			}
			return errors.New(where)
		}))
	}
}

// TestRootTutorialSingleNode types docs/tutorial-single-node.md.
func TestRootTutorialSingleNode(t *testing.T) {
	l := newLab(t)
	follow(t, "tutorial-single-node.md", map[string]*terminal{"": addHost(t, l, "server").terminal(t)})
}

// TestRootTour types the tour of the README.
func TestRootTour(t *testing.T) {
	l := newLab(t)
	s := addHost(t, l, "server").terminal(t)
	_, err := s.run("skydive allinone >skydive.log 2>&1 &\nuntil skydive health --ready >/dev/null 2>&1; do sleep 0.2; done")
	need(t, err)
	follow(t, "../README.md", map[string]*terminal{"": s})
}

// TestRootTutorialFlows types docs/tutorial-flows.md.
func TestRootTutorialFlows(t *testing.T) {
	l := newLab(t)
	follow(t, "tutorial-flows.md", map[string]*terminal{"": addHost(t, l, "server").terminal(t)})
}

// TestRootTutorialMultiNode types docs/tutorial-multi-node.md on three hosts.
func TestRootTutorialMultiNode(t *testing.T) {
	l := newLab(t)
	terminals := map[string]*terminal{}
	for n, name := range []string{"server1", "server2", "server3"} {
		h := addHost(t, l, name)
		script(t, h, fmt.Sprintf("ip address add 192.168.50.%d/24 dev eth0", 11+n))
		terminals[name] = h.terminal(t)
	}
	follow(t, "tutorial-multi-node.md", terminals)
}
