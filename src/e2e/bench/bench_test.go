package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type element struct {
	ID, Parent, Child string
	Metadata          map[string]any
}

func TestTreeIsOneValidSync(t *testing.T) {
	tree := newTree(1000, "0")
	var message struct {
		Namespace, Type string
		Obj             struct{ Nodes, Edges []element }
	}
	if err := json.Unmarshal(tree.sync(), &message); err != nil {
		t.Fatal(err)
	}
	if message.Namespace != "Graph" || message.Type != "Sync" || len(message.Obj.Nodes) != 1000 || len(message.Obj.Edges) != 1000 {
		t.Fatalf("%s %s with %d nodes, %d edges", message.Namespace, message.Type, len(message.Obj.Nodes), len(message.Obj.Edges))
	}
	ids := map[string]bool{}
	for _, n := range message.Obj.Nodes {
		if ids[n.ID] || len(n.ID) != 36 || len(n.Metadata) != 8 {
			t.Errorf("node %+v", n)
		}
		ids[n.ID] = true
	}
	var chain struct{ Obj struct{ Edges []element } }
	if err := json.Unmarshal(tree.chain(), &chain); err != nil {
		t.Fatal(err)
	}
	for _, e := range append(message.Obj.Edges, chain.Obj.Edges...) {
		if ids[e.ID] || len(e.ID) != 36 || !ids[e.Parent] || !ids[e.Child] || e.Parent == e.Child {
			t.Errorf("edge %+v", e)
		}
		ids[e.ID] = true
	}
	if n := len(ids); n != 1000+1000+999 {
		t.Errorf("%d elements", n)
	}
	if n := tree.named("n50"); n != 1+10 {
		t.Errorf("%d names begin with n50", n)
	}
	singles := tree.messages()
	if len(singles) != 2000 || !bytes.Contains(singles[0], []byte("NodeAdded")) || !bytes.Contains(singles[1999], []byte("EdgeAdded")) {
		t.Errorf("%d single messages", len(singles))
	}
	for _, m := range singles {
		if !json.Valid(m) {
			t.Fatalf("%s", m)
		}
	}
}

func TestPublisherFramesMessagesAndAnswersPings(t *testing.T) {
	ours, theirs := net.Pipe()
	p := &publisher{conn: ours, out: bufio.NewWriter(ours)}
	go p.answer(bufio.NewReader(ours))
	defer p.close()
	in := bufio.NewReader(theirs)
	for _, size := range []int{0, 125, 126, 65535, 65536} {
		done := make(chan error, 1)
		go func() { done <- p.send(bytes.Repeat([]byte("x"), size)) }()
		if opcode, payload := readFrame(t, in); opcode != text || len(payload) != size {
			t.Errorf("opcode %d, %d bytes, want %d", opcode, len(payload), size)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, frame := range []string{"\x81\x7e\x00\x80" + strings.Repeat("y", 128), "\x89\x02hi"} { // a long text, which is of no interest; a ping
		if _, err := io.WriteString(theirs, frame); err != nil {
			t.Fatal(err)
		}
	}
	if opcode, payload := readFrame(t, in); opcode != pong || string(payload) != "hi" {
		t.Errorf("opcode %d %q, want a pong", opcode, payload)
	}
}

// readFrame reads a frame as a server does: it must be final and masked.
func readFrame(t *testing.T, in io.Reader) (opcode byte, payload []byte) {
	t.Helper()
	read := func(n uint64) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(in, b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	head := read(2)
	if head[0]&0xf0 != 0x80 || head[1]&0x80 == 0 {
		t.Fatalf("frame starts %x", head)
	}
	n := uint64(head[1] & 0x7f)
	switch n {
	case 126:
		n = uint64(binary.BigEndian.Uint16(read(2)))
	case 127:
		n = binary.BigEndian.Uint64(read(8))
	}
	mask := read(4)
	payload = read(n)
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, payload
}

func TestFiguresAreMediansJudgedByTheirBars(t *testing.T) {
	r := &result{benchmark: benchmark{id: "P0", rows: []row{{"time", "s", 3, 1}, {"rate", "/s", 10, 100}, {"free", "MB", 0, 0}, {"none", "", 4, 0}}}}
	for _, run := range [][]float64{{5, 150, 1, 0}, {0.5, 90, 3, 0}, {0.9, 120, 2, 0}} {
		values := make([]value, len(run))
		for i, v := range run {
			values[i].Today = v
		}
		r.Runs = append(r.Runs, values)
	}
	figures, err := r.figures(true)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		today   float64
		verdict string
	}{{0.9, "ok"}, {120, "ok"}, {2, ""}, {0, "ok"}} {
		if f := figures[i]; f.Today != want.today || f.Verdict != want.verdict || len(f.Runs) != 3 {
			t.Errorf("%s: %v %q of %v, want %+v", f.Part, f.Today, f.Verdict, f.Runs, want)
		}
	}
	r.Runs = r.Runs[:1]
	figures, _ = r.figures(true)
	if figures[0].Verdict != "MISS" || figures[1].Verdict != "ok" {
		t.Errorf("%+v", figures)
	}
	if figures, _ = r.figures(false); figures[0].Verdict != "" {
		t.Error("a scaled run must not be judged")
	}
	r.err = errors.New("broken\npipe")
	if figures, err = r.figures(true); err == nil || len(figures) != 1 || figures[0].Note != "not measured: broken" {
		t.Errorf("%+v %v", figures, err)
	}
}

func TestQuantity(t *testing.T) {
	for _, c := range []struct {
		n    float64
		unit string
		want string
	}{{0, "s", "–"}, {never, "s", "never"}, {0.0451, "s", "0.045 s"}, {0.25, "ms", "0.250 ms"}, {15, "s", "15.0 s"}, {942, "MB", "942 MB"}, {5800, "/s", "5.80k/s"}, {150_000, "/s", "150k/s"}, {4.1, "", "4.10"}} {
		if got := quantity(c.n, c.unit); got != c.want {
			t.Errorf("%v %s: %q, want %q", c.n, c.unit, got, c.want)
		}
	}
}

func TestPercentile(t *testing.T) {
	of := make([]float64, 200)
	for i := range of {
		of[i] = float64(200 - i)
	}
	if p := [...]float64{median(of), percentile(of, 99), percentile(of[:1], 99)}; p != [...]float64{100, 198, 1} {
		t.Error(p)
	}
}

func TestChoose(t *testing.T) {
	all, err := choose("")
	if err != nil || len(all) != 26 {
		t.Errorf("%d benchmarks, %v", len(all), err)
	}
	some, err := choose("p5, P3")
	if err != nil || len(some) != 2 || some[0].id != "P5" || some[1].id != "P3" {
		t.Errorf("%v %v", some, err)
	}
	if _, err := choose("P4,P99"); err == nil || !strings.Contains(err.Error(), "P99") {
		t.Error(err)
	}
}

func TestLength(t *testing.T) {
	for text, want := range map[string]int{"12\n": 12, "[]": 0, `[{"a":[1,2]},3]`: 2} {
		if n, err := length([]byte(text)); err != nil || n != want {
			t.Errorf("%s: %d %v", text, n, err)
		}
	}
	if _, err := length([]byte(`{"error":1}`)); err == nil {
		t.Error("an object is neither number nor list")
	}
}

func TestReportIsKept(t *testing.T) {
	dir := t.TempDir()
	latest, history := filepath.Join(dir, "bench", "latest.json"), filepath.Join(dir, "bench", "history.jsonl")
	r := &report{Version: "v1", Figures: []figure{
		{ID: "P1", What: "start", Part: "agent", Unit: "s", Bar: 0.05, Runs: []float64{0.04}, Verdict: "ok", value: value{Today: 0.04}},
		{ID: "P24", What: "playbook", value: value{Note: "left out: no ansible"}},
	}}
	for range 2 {
		if err := errors.Join(r.write(latest), r.append(history)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(history)
	if err != nil || bytes.Count(text, []byte{'\n'}) != 2 {
		t.Errorf("%s %v", text, err)
	}
	text, err = os.ReadFile(latest)
	var back report
	if err != nil || json.Unmarshal(text, &back) != nil || back.Figures[0].Today != 0.04 {
		t.Errorf("%s %v", text, err)
	}
	table := r.table()
	for _, want := range []string{"0.040 s", "ok", "left out: no ansible", "1 of 1 bars met"} {
		if !strings.Contains(table, want) {
			t.Errorf("%q is not in\n%s", want, table)
		}
	}
}
