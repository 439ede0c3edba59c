package bpf

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "record testdata/libpcap.txt anew (needs tcpdump)")

// recorded is an expression with what libpcap makes of it. Its optimizer changes the order of some tests and leaves out others: that
// counts for packets that are cut short. plain is the program without the optimizer, where verdicts differ, else nil.
type recorded struct {
	link           LinkType
	expr           string
	program, plain []Instruction
}

func (r recorded) String() string { return fmt.Sprintf("%d %s", r.link, r.expr) }

// expressions returns those of testdata/expressions.txt.
func expressions(tb testing.TB) (list []recorded) {
	tb.Helper()
	text, err := os.ReadFile("testdata/expressions.txt")
	if err != nil {
		tb.Fatal(err)
	}
	var link LinkType
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if n, ok := strings.CutPrefix(line, "link "); ok && strings.Trim(n, "0123456789") == "" {
			v, err := strconv.Atoi(n)
			if err != nil {
				tb.Fatal(err)
			}
			link = LinkType(v)
		} else if !strings.HasPrefix(line, "#") {
			list = append(list, recorded{link: link, expr: line})
		}
	}
	return list
}

// record asks tcpdump for the program of an expression.
func record(t *testing.T, dir string, r recorded, options ...string) string {
	t.Helper()
	head := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	head = append(head, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	head = binary.LittleEndian.AppendUint32(head, 262144)
	head = binary.LittleEndian.AppendUint32(head, uint32(r.link))
	capture, expr := filepath.Join(dir, "empty.pcap"), filepath.Join(dir, "expr")
	for name, data := range map[string][]byte{capture: head, expr: []byte(r.expr)} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("tcpdump", "-r", capture, "-F", expr, "-ddd")
	cmd.Args = append(cmd.Args, options...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: %v: %s", r, err, stderr.String())
	}
	return string(out)
}

// parseListing reads the output of tcpdump -ddd and returns the lines after it.
func parseListing(t *testing.T, lines []string) (prog []Instruction, rest []string) {
	t.Helper()
	n, err := strconv.Atoi(lines[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines[1 : 1+n] {
		var in Instruction
		if _, err := fmt.Sscan(line, &in.Op, &in.Jt, &in.Jf, &in.K); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		prog = append(prog, in)
	}
	return prog, lines[1+n:]
}

// disagree tells whether two programs differ on a packet.
func disagree(packets []packet, a, b []Instruction) bool {
	return slices.ContainsFunc(packets, func(p packet) bool {
		n := uint32(p.length)
		return (run(a, p.data, n) != 0) != (run(b, p.data, n) != 0)
	})
}

// golden returns the expressions with their programs in testdata/libpcap.txt: a line with link type and expression, the output of
// tcpdump -ddd and, if it matters, a line "-O" with the output of tcpdump -O -ddd.
func golden(t *testing.T, packets map[LinkType][]packet) []recorded {
	t.Helper()
	list := expressions(t)
	const file = "testdata/libpcap.txt"
	if *update {
		var out strings.Builder
		dir := t.TempDir()
		for _, r := range list {
			text, plain := record(t, dir, r), record(t, dir, r, "-O")
			fmt.Fprintf(&out, "%s\n%s", r, text)
			a, _ := parseListing(t, strings.Split(text, "\n"))
			b, _ := parseListing(t, strings.Split(plain, "\n"))
			if disagree(packets[r.link], a, b) {
				fmt.Fprintf(&out, "-O\n%s", plain)
			}
		}
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i := range list {
		r := &list[i]
		if lines[0] != r.String() {
			t.Fatalf("%s has %q where %q is expected: run with -update", file, lines[0], r)
		}
		if r.program, lines = parseListing(t, lines[1:]); lines[0] == "-O" {
			r.plain, lines = parseListing(t, lines[1:])
		}
	}
	if len(lines) != 1 {
		t.Fatalf("%s has more than the expressions: run with -update", file)
	}
	return list
}

func TestVerdictsAreThoseOfLibpcap(t *testing.T) {
	packets := map[LinkType][]packet{}
	for _, link := range []LinkType{Ethernet, RawIP, LinuxSLL, IPv4, IPv6} {
		packets[link] = corpus(t, link)
	}
	list := golden(t, packets)
	ours, theirs, verdicts, doubtful := 0, 0, 0, 0
	for _, r := range list {
		f, err := Compile(r.expr, r.link, 262144)
		if err != nil {
			t.Errorf("%s: %v", r, err)
			continue
		}
		ours += len(f.frame)
		theirs += len(r.program)
		matched, faults := 0, 0
		for _, p := range packets[r.link] {
			want := run(r.program, p.data, uint32(p.length)) != 0
			if want {
				matched++
			}
			if r.plain != nil && (run(r.plain, p.data, uint32(p.length)) != 0) != want {
				doubtful++
				if len(p.data) >= 64 {
					t.Errorf("%s: libpcap is of two minds on %x, which is not cut short", r, p.data)
				}
				continue
			}
			verdicts++
			if got := f.Match(p.data, p.length); got != want {
				if faults++; faults == 1 {
					t.Errorf("%s: %v, libpcap %v for %x (of %d bytes)\nours:\n%slibpcap's:\n%s", r, got, want, p.data, p.length, listing(f.frame), listing(r.program))
				}
			}
		}
		if faults > 1 {
			t.Errorf("%s: %d packets differ", r, faults)
		}
		if matched == 0 {
			t.Errorf("%s: no packet matches: the comparison proves little", r)
		}
	}
	t.Logf("%d expressions, %d equal verdicts, %d on which libpcap is of two minds; %d instructions, libpcap %d", len(list), verdicts, doubtful, ours, theirs)
}
