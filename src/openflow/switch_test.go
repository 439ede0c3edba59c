package openflow

import (
	"bufio"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files anew, from the switch of TestRootSameAsOvsOfctl")

// record asks a switch for its rules and groups and returns the bodies of its answers.
func record(t testing.TB, address string, v Version) (answers [][]byte) {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := newSession(nil, conn)
	if err := s.negotiate([]Version{v}); err != nil {
		t.Fatal(err)
	}
	requests := []builder{flowRequest(v, true), groupRequest(v)}
	for i, q := range requests[:2-boolInt(v == Version10)] {
		if err := s.send(q.finish(uint32(i))); err != nil {
			t.Fatal(err)
		}
		for more := true; more; {
			m, size, err := s.next(time.Now().Add(patience))
			if err != nil {
				t.Fatal(err)
			}
			if m.kind == typeStats10+1 || m.kind == typeMultipart+1 {
				answers = append(answers, slices.Clone(m.body))
				a, err := readAnswer(v, m.body)
				if err != nil {
					t.Fatal(err)
				}
				more = a.more
			}
			if _, err := s.in.Discard(size); err != nil {
				t.Fatal(err)
			}
		}
	}
	return answers
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// texts decodes answers as a dump shows them.
func texts(t testing.TB, v Version, answers [][]byte) string {
	t.Helper()
	var all []string
	for _, body := range answers {
		a, err := readAnswer(v, body)
		if err != nil {
			t.Fatal(err)
		}
		if a.kind == statsGroupDesc {
			err = readGroups(v, a.body, func(g Group) { all = append(all, g.String()+" selection="+g.Selection) })
		} else {
			err = readRules(v, a, func(r *rawRule) { all = append(all, r.keep(v).String()+fieldsText(r.keep(v))) })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return strings.Join(all, "\n") + "\n"
}

// fieldsText shows what programs get, next to what users read.
func fieldsText(r *Rule) string {
	var s strings.Builder
	for _, f := range r.Match.Fields() {
		fmt.Fprintf(&s, "\n\t%s %T %v %q", f.Name, f.Value, f.Value, f.Mask)
	}
	for _, i := range r.Instructions.Decode() {
		fmt.Fprintf(&s, "\n\t%s %v", i.Type, i.Arguments)
		for _, a := range i.Actions {
			fmt.Fprintf(&s, "\n\t\t%s %v", a.Type, a.Arguments)
		}
	}
	return s.String()
}

func goldenFiles(v Version) (bytes, text string) {
	base := filepath.Join("testdata", strings.ToLower(v.String()))
	return base + ".hex", base + ".golden"
}

// writeGolden writes what a switch answers, and what is read from it.
func writeGolden(t testing.TB, address string, v Version) {
	t.Helper()
	bytes, text := goldenFiles(v)
	answers := record(t, address, v)
	var b strings.Builder
	for _, body := range answers {
		b.WriteString(hex.EncodeToString(body) + "\n")
	}
	for file, content := range map[string]string{bytes: b.String(), text: texts(t, v, answers)} {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// recorded returns the answers of a real switch.
func recorded(t testing.TB, v Version) (answers [][]byte) {
	t.Helper()
	file, _ := goldenFiles(v)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		b, err := hex.DecodeString(s.Text())
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, b)
	}
	return answers
}

func TestGolden(t *testing.T) {
	for v := Version10; v <= Version15; v++ {
		_, file := goldenFiles(v)
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got := texts(t, v, recorded(t, v)); got != string(want) {
			t.Errorf("%v: not as %s:\n%s", v, file, firstDifference(got, string(want)))
		}
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return fmt.Sprintf("line %d: %s\nwant: %s", i+1, g[i], w[i])
		}
	}
	return fmt.Sprintf("%d lines, want %d", len(g), len(w))
}
