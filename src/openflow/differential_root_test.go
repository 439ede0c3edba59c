package openflow

import (
	"bufio"
	"context"
	"fmt"

	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"skydive/src/ovs/ovstest"
)

const patience = 20 * time.Second

// recorder is a Handler that passes on what a client says.
type recorder struct {
	t         testing.TB
	connected chan Version
	lost      chan error
	updates   chan Update
	rules     map[Key]Rule
	groups    map[uint32]Group
}

func (r *recorder) Connected(v Version)    { r.connected <- v }
func (r *recorder) Disconnected(err error) { r.lost <- err }
func (r *recorder) Changed(u Update) {
	r.updates <- u.clone()
}

// clone makes a copy that stays as it is.
func (u Update) clone() Update {
	for i, rule := range u.Rules {
		same := *rule
		u.Rules[i] = &same
	}
	for i, g := range u.Groups {
		same := *g
		u.Groups[i] = &same
	}
	return u
}

// start runs a client until the test ends.
func follow(t testing.TB, o Options) *recorder {
	t.Helper()
	r := &recorder{
		t: t, connected: make(chan Version, 100), lost: make(chan error, 100), updates: make(chan Update, 1000),
		rules: make(map[Key]Rule), groups: make(map[uint32]Group),
	}
	o.Handler = r
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

// until takes in updates until a condition holds.
func (r *recorder) until(what string, ok func() bool) {
	r.t.Helper()
	end := time.After(patience)
	for !ok() {
		select {
		case u := <-r.updates:
			r.apply(u)
		case <-end:
			r.t.Fatalf("not within %v: %s; there are %d rules: %v", patience, what, len(r.rules), r.list())
		}
	}
}

func (r *recorder) apply(u Update) {
	for _, key := range u.GoneRules {
		delete(r.rules, key)
	}
	for _, id := range u.GoneGroups {
		delete(r.groups, id)
	}
	for _, rule := range u.Rules {
		r.rules[rule.Key()] = *rule
	}
	for _, g := range u.Groups {
		r.groups[g.ID] = *g
	}
}

func (r *recorder) list() []string {
	var all []string
	for _, rule := range r.rules {
		all = append(all, canonical(rule.String()))
	}
	slices.Sort(all)
	return all
}

// canonical makes texts comparable: the order of what stands before the actions does not matter.
func canonical(rule string) string {
	head, actions, _ := strings.Cut(rule, "actions=")
	var parts []string
	for _, p := range strings.FieldsFunc(head, func(r rune) bool { return r == ',' || r == ' ' }) {
		switch {
		case strings.HasPrefix(p, "duration="), strings.HasPrefix(p, "n_packets="), strings.HasPrefix(p, "n_bytes="),
			strings.HasPrefix(p, "idle_age="), strings.HasPrefix(p, "hard_age="), p == "table=0", p == "cookie=0x0":
		case strings.HasPrefix(p, "tun_erspan_"), strings.HasPrefix(p, "gtpu_"): // ovs-ofctl does not show their masks
			name, value, _ := strings.Cut(p, "=")
			value, _, _ = strings.Cut(value, "/")
			n, err := strconv.ParseUint(value, 0, 32)
			if err != nil {
				panic(err)
			}
			parts = append(parts, fmt.Sprint(name, "=", n))
		default:
			parts = append(parts, p)
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ",") + " actions=" + actions
}

func lines(t testing.TB, file string) []string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" && line[0] != '#' {
			all = append(all, line)
		}
	}
	return all
}

// fill gives a bridge the rules of a file, and two groups and a meter that they refer to.
func fill(t testing.TB, s *ovstest.Server, file string) (rules int) {
	t.Helper()
	mgmt := s.Mgmt("br0")
	s.Ofctl(t, "-OOpenFlow15", "add-tlv-map", mgmt, "{class=0xffff,type=0,len=4}->tun_metadata0")
	s.Ofctl(t, "-OOpenFlow15", "add-group", mgmt, "group_id=1,type=select,selection_method=hash,fields(ip_src,ip_dst),"+
		"bucket=bucket_id:1,weight:50,actions=output:1,bucket=bucket_id:2,weight:30,actions=output:2")
	s.Ofctl(t, "-OOpenFlow15", "add-group", mgmt, "group_id=2,type=fast_failover,bucket=watch_port:1,actions=output:1,"+
		"bucket=watch_group:1,actions=output:2,set_field:1.2.3.4->ip_dst")
	s.Ofctl(t, "-OOpenFlow13", "add-meter", mgmt, "meter=1,kbps,band=type=drop,rate=100")
	s.Ofctl(t, "del-flows", mgmt)
	all := lines(t, file)
	for _, line := range all {
		s.Ofctl(t, "-OOpenFlow14", "add-flow", mgmt, line)
	}
	return len(all)
}

// TestRootSameAsOvsOfctl compares the rules and groups of a bridge with what ovs-ofctl says of them, in each version.
func TestRootSameAsOvsOfctl(t *testing.T) {
	s := ovstest.Start(t, ovstest.Namespace(t, "ovb-same"))
	s.Bridge(t, "br0")
	count := fill(t, s, "testdata/rules.txt")
	for v := Version10; v <= Version15; v++ {
		// ovs-ofctl cannot read these with the versions before.
		if file := map[Version]string{Version11: "testdata/instructions.txt", Version13: "testdata/nsh.txt"}[v]; file != "" {
			for _, line := range lines(t, file) {
				s.Ofctl(t, "-OOpenFlow14", "add-flow", s.Mgmt("br0"), line)
				count++
			}
		}
		t.Run(v.String(), func(t *testing.T) {
			var oracle []string
			for _, line := range strings.Split(s.Ofctl(t, "-O"+v.String(), "dump-flows", s.Mgmt("br0")), "\n") {
				if strings.Contains(line, "actions=") {
					oracle = append(oracle, canonical(line))
				}
			}
			slices.Sort(oracle)
			if len(oracle) != count {
				t.Fatalf("ovs-ofctl shows %d of %d rules", len(oracle), count)
			}
			r := follow(t, Options{Address: s.Mgmt("br0"), Versions: []Version{v}})
			if got := <-r.connected; got != v {
				t.Errorf("speaks %v", got)
			}
			r.until("all rules", func() bool { return len(r.rules) == count })
			ours := r.list()
			for i, want := range oracle {
				if !slices.Contains(ours, want) {
					t.Errorf("ovs-ofctl: %s\nours has only: %s", want, ours[min(i, len(ours)-1)])
				}
			}
			if *update {
				writeGolden(t, s.Mgmt("br0"), v)
			}
			if v == Version10 {
				return
			}
			r.until("groups", func() bool { return len(r.groups) == 2 })
			for _, line := range strings.Split(s.Ofctl(t, "-O"+v.String(), "dump-groups", s.Mgmt("br0")), "\n") {
				if !strings.Contains(line, "group_id=") {
					continue
				}
				g1, g2 := r.groups[1], r.groups[2]
				if got := []string{g1.String(), g2.String()}; !slices.Contains(got, groupText(line)) {
					t.Errorf("ovs-ofctl: %s\nours: %v", groupText(line), got)
				}
			}
		})
	}
}

// groupText leaves out what Group.String does.
func groupText(line string) string {
	line = strings.TrimSpace(line)
	for _, drop := range []string{"selection_method=hash,fields(ip_src,ip_dst),", "bucket_id:0,", "bucket_id:1,", "bucket_id:2,"} {
		line = strings.Replace(line, drop, "", 1)
	}
	return line
}
