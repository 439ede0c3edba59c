package rbac

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

func sample(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("testdata/mypolicy.csv")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func set(t testing.TB, e *Enforcer, csv string) {
	t.Helper()
	if err := e.SetPolicy(csv); err != nil {
		t.Fatal(err)
	}
}

// everything lists each object and action that the bundled policy knows.
func everything() (list [][2]string) {
	for line := range lines(bundled) {
		if words, _ := split(line); len(words) == 5 && !slices.Contains(list, [2]string{words[2], words[3]}) {
			list = append(list, [2]string{words[2], words[3]})
		}
	}
	return list
}

// The documented sample, user by user, object by object.
func TestSamplePolicy(t *testing.T) {
	e := enforcer(t, Config{})
	for _, user := range []string{"alice", "bob", "carol"} {
		e.Grant(user, "admin") // the role of the backend: they called before the policy came
	}
	set(t, e, sample(t))
	guests := []string{"alert read", "capture read", "topology read"}
	may := map[string][]string{
		"alice":  append([]string{"capture write"}, guests...),
		"bob":    {"alert read", "capture read"},
		"guests": guests,
		"nobody": nil,
		"guest":  {"status read", "topology read", "websocket /ws/subscriber"},
	}
	objects := everything()
	if len(objects) != 32 {
		t.Fatalf("%d objects and actions in the bundled policy", len(objects))
	}
	for _, o := range objects {
		for user, list := range may {
			if want, got := slices.Contains(list, o[0]+" "+o[1]), e.Allowed(user, o[0], o[1]); got != want {
				t.Errorf("%s, %s on %s: %v, want %v", user, o[1], o[0], got, want)
			}
		}
		for _, user := range []string{"admin", "carol"} { // carol has no line: the default role stays
			if !e.Allowed(user, o[0], o[1]) {
				t.Errorf("%s, %s on %s: refused", user, o[1], o[0])
			}
		}
	}
}

func TestPolicyComesAndGoes(t *testing.T) {
	e := enforcer(t, Config{Policy: []string{"p, ops, capture, write, allow", "g, dave, ops"}})
	e.Grant("alice", "guest")
	e.Grant("carol", "guest")
	before := e.Changed()
	set(t, e, sample(t))
	select {
	case <-before:
	default:
		t.Error("nobody was told")
	}
	for _, c := range []struct {
		name, policy        string
		alice, carol, write bool // alice may capture, carol may see the status, alice may see it
	}{
		{"the sample", sample(t), true, true, false},
		{"another", "g, alice, admin\np, carol, status, read, deny", true, false, true},
		{"none", "", false, true, true},
		{"the sample again", sample(t), true, true, false},
		{"nothing but remarks", "# later\n\n", false, true, true},
	} {
		set(t, e, c.policy)
		if got := e.Allowed("alice", "capture", "write"); got != c.alice {
			t.Errorf("%s: alice may capture: %v", c.name, got)
		}
		if got := e.Allowed("carol", "status", "read"); got != c.carol {
			t.Errorf("%s: carol may see the status: %v", c.name, got)
		}
		if got := e.Allowed("alice", "status", "read"); got != c.write {
			t.Errorf("%s: alice may see the status: %v", c.name, got)
		}
		if !e.Allowed("dave", "capture", "write") {
			t.Errorf("%s: the configuration's lines are lost", c.name)
		}
	}
	same := e.Changed()
	set(t, e, "# later\n\n")
	select {
	case <-same:
		t.Error("told of a change that is none")
	default:
	}
}

func TestPolicyAsFilesAreWritten(t *testing.T) {
	for name, text := range map[string]string{
		"plain":         "p, a, b, c, allow\np, a, b, d, deny\ng, x, a\n",
		"no last line":  "p, a, b, c, allow\np, a, b, d, deny\ng, x, a",
		"CRLF":          "p, a, b, c, allow\r\np, a, b, d, deny\r\ng, x, a\r\n",
		"CR":            "p, a, b, c, allow\rp, a, b, d, deny\rg, x, a\r",
		"BOM":           "\uFEFFp, a, b, c, allow\r\np, a, b, d, deny\r\ng, x, a\r\n",
		"remarks":       "# p, a, b, d, allow\n  # more\n\n\np, a, b, c, allow\n\t\np, a, b, d, deny\ng, x, a\n",
		"twice":         "p, a, b, c, allow\np, a, b, c, allow\np,a,b,d,deny\np,  a, b ,d,deny\ng, x, a\ng,x,a\n",
		"quotes":        "\"p\", \"a\", \"b\", \"c\", \"allow\"\np, a, b, d, deny\ng, x, a\n",
		"tabs":          "p,\ta,\tb,\tc,\tallow\np,\ta,\tb,\td,\tdeny\ng,\tx,\ta\n",
		"allow anyway":  "p, a, b, c, allow\np, a, b, d, deny\np, a, b, d, allow\ng, x, a\n",
		"ring of roles": "p, a, b, c, allow\np, a, b, d, deny\ng, x, a\ng, a, y\ng, y, x\n",
	} {
		e := enforcer(t, Config{})
		if err := e.SetPolicy(text); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, user := range []string{"a", "x"} {
			if !e.Allowed(user, "b", "c") || e.Allowed(user, "b", "d") {
				t.Errorf("%s: %s may %v %v", name, user, e.Allowed(user, "b", "c"), e.Allowed(user, "b", "d"))
			}
		}
		if s := e.Status(); s.State != "running" || s.Reason != "" || !slices.Equal(s.Source, []string{"bundled policy", "etcd"}) {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestBrokenPolicyIsRefusedAndTheLastStays(t *testing.T) {
	e := enforcer(t, Config{})
	e.Grant("carol", "guest")
	set(t, e, sample(t))
	many := strings.Repeat("p, a, b, c, allow\n", maxPolicyLines)
	for _, c := range []struct {
		name, text string
		line       int
		want       string
	}{
		{"no effect", "p, a, b, c, allow\n\np, bob, topology, read\n", 3, `line 3 "p, bob, topology, read": want 4 words after p (sub, obj, act, eft), not 3`},
		{"line with CRLF", "# one\r\n\r\nq, a\r\n", 3, "want p or g first"},
		{"wrong effect", "p, a, b, c, permit", 1, "want the effect allow or deny"},
		{"a remark behind", "p, a, b, c, allow # for now", 1, "want the effect allow or deny"},
		{"p2 of no model", "p2, a, b, c, allow", 1, "does not define p2"},
		{"g2 of no model", "g2, a, b", 1, "does not define g2"},
		{"role of one word", "g, a", 1, "want 2 words"},
		{"empty word", "p, a, , c, allow", 1, "a word is empty"},
		{"open quote", "p, \"a, b, c, allow", 1, ""},
		{"comma in a word", `p, "a, b", c, d, allow`, 1, "comma"},
		{"NUL", "p, a, b, c\x00, allow", 1, "control character"},
		{"not UTF-8", "p, a, b, c, allow\np, a, b, \xff, allow", 2, "UTF-8"},
		{"UTF-16", "\xff\xfep\x00,\x00", 1, "UTF-8"},
		{"long word", "p, " + strings.Repeat("a", maxWord+1) + ", b, c, allow", 1, "bytes"},
		{"name of a file", "value@mypolicy.csv", 1, "want p or g first"},
		{"JSON", `{"p": []}`, 1, ""},
		{"too many lines", many + "p, a, b, c, allow\n", 0, "lines, more than"},
		{"too large", strings.Repeat("#", maxPolicyBytes+1), 0, "bytes, more than"},
	} {
		err := e.SetPolicy(c.text)
		var at *LineError
		if err == nil || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 500 {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if errors.As(err, &at) != (c.line > 0) || at != nil && at.Line != c.line {
			t.Errorf("%s: %v, want line %d", c.name, err, c.line)
		}
		if s := e.Status(); s.State != "failed" || !strings.Contains(s.Reason, err.Error()) || !slices.Contains(s.Source, "etcd") {
			t.Errorf("%s: %+v", c.name, s)
		}
		if !e.Allowed("alice", "capture", "write") || e.Allowed("bob", "topology", "read") || !e.Allowed("carol", "status", "read") || e.Allowed("a", "b", "c") {
			t.Errorf("%s: the last good policy is not in force", c.name)
		}
		if _, tried := e.TryPolicy(c.text, "admin", "rbac", "write"); tried == nil || tried.Error() != err.Error() {
			t.Errorf("%s: tried: %v", c.name, tried)
		}
	}
	set(t, e, sample(t))
	if s := e.Status(); s.State != "running" || s.Reason != "" {
		t.Errorf("mended: %+v", s)
	}
	set(t, e, many)
}

// While the policy is awaited nobody should be let in, and a broken one does not change that.
func TestPending(t *testing.T) {
	if err := enforcer(t, Config{}).Pending(); err != nil {
		t.Error(err)
	}
	e := enforcer(t, Config{Await: true})
	if err := e.Pending(); err == nil || e.Status().State != "starting" {
		t.Errorf("%v %+v", err, e.Status())
	}
	if e.SetPolicy("p") == nil {
		t.Fatal("p is no policy")
	}
	if err := e.Pending(); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Error(err)
	}
	set(t, e, "")
	if err := e.Pending(); err != nil || e.Status().State != "running" {
		t.Errorf("%v %+v", err, e.Status())
	}
	if e.SetPolicy("p") == nil || e.Pending() != nil {
		t.Error("a later mistake locks everybody out")
	}
}

// What comes of a policy for who sends it.
func TestTryPolicy(t *testing.T) {
	e := enforcer(t, Config{})
	e.Grant("carol", "admin")
	for _, c := range []struct {
		policy, user string
		want         bool
	}{
		{"", "carol", true}, {"", "admin", true}, {"", "nobody", false},
		{"g, carol, guest", "carol", false},
		{"g, carol, guest\ng, carol, admin", "carol", false}, // a deny wins
		{"p, admin, rbac, write, deny", "carol", false},
		{"p, admin, rbac, write, deny", "admin", false},
		{"p, carol, rbac, write, deny", "carol", false},
		{"p, carol, rbac, write, deny", "admin", true},
		{"p, root, rbac, write, allow\ng, carol, root", "carol", true},
	} {
		if got, err := e.TryPolicy(c.policy, c.user, "rbac", "write"); err != nil || got != c.want {
			t.Errorf("%q for %s: %v %v", c.policy, c.user, got, err)
		}
	}
	if e.Status().State != "running" || !e.Allowed("carol", "rbac", "write") {
		t.Error("a try had an effect")
	}
}

// The role that agents get by default is none of the API, though the same user may come in there.
func TestSeparate(t *testing.T) {
	e := enforcer(t, Config{Await: true, Policy: []string{"p, eve, websocket, /ws/agent/topology, deny"}})
	agents, err := e.Separate()
	if err != nil || agents.Pending() != nil {
		t.Fatal(err)
	}
	agents.Grant("bob", "admin")
	e.Grant("bob", "guest")
	agents.Grant("eve", "admin")
	if !agents.Allowed("bob", "websocket", "/ws/agent/topology") || e.Allowed("bob", "websocket", "/ws/agent/topology") || e.Allowed("bob", "capture", "write") {
		t.Error("the doors are not separate")
	}
	if agents.Allowed("eve", "websocket", "/ws/agent/topology") || !agents.Allowed("eve", "websocket", "/ws/agent/flow") {
		t.Error("the policy of the configuration does not count at the other door")
	}
	changed := e.Changed()
	set(t, e, "p, bob, websocket, /ws/agent/topology, deny")
	<-changed
	if agents.Allowed("bob", "websocket", "/ws/agent/topology") || !agents.Allowed("bob", "websocket", "/ws/agent/flow") {
		t.Error("the policy does not count at the other door")
	}
	if e.SetPolicy("p") == nil || agents.Status().State != "failed" || agents.Allowed("bob", "websocket", "/ws/agent/topology") {
		t.Error("a broken one")
	}
	if again, _ := e.Separate(); again != agents {
		t.Error("another one")
	}
}

func TestPolicyOfACustomModel(t *testing.T) {
	domains := Config{Model: Model{
		PolicyDefinition: []string{"sub, obj, act, eft", "sub, obj"}, RoleDefinition: []string{"_, _", "_, _"},
		Matchers: []string{"(g(r.sub, p.sub) || g2(r.sub, p.sub)) && r.obj == p.obj && keyMatch(r.act, p.act)"},
	}}
	e := enforcer(t, domains)
	e.Grant("carol", "guest")
	set(t, e, "p, ops, websocket, /ws/*, allow\ng2, bob, ops\np2, a, b\ng, dave, ops\n")
	for _, user := range []string{"bob", "dave"} {
		if !e.Allowed(user, "websocket", "/ws/subscriber/flow") || e.Allowed(user, "capture", "read") {
			t.Error(user)
		}
	}
	if !e.Allowed("carol", "status", "read") {
		t.Error("the default role is lost")
	}
	if err := e.SetPolicy("p3, a, b"); err == nil || !strings.Contains(err.Error(), "p3") {
		t.Error(err)
	}
	if err := e.SetPolicy("p2, a, b, c"); err == nil || !strings.Contains(err.Error(), "want 2 words after p2") {
		t.Error(err)
	}
	if x := e.Check("bob", "websocket", "/ws/subscriber/flow"); !x.Allowed || len(x.Rules) != 1 || x.Rules[0].Text != "p, ops, websocket, /ws/*, allow" {
		t.Errorf("%+v", x)
	}
	// A rule that the matcher cannot work with is refused when that shows, and denies when it shows later.
	wild := enforcer(t, Config{Model: Model{Matchers: []string{"g(r.sub, p.sub) && regexMatch(r.obj, p.obj) && r.act == p.act"}}})
	if err := wild.SetPolicy("p, user, *(, action, allow"); err == nil || !strings.Contains(err.Error(), "the model fails") || strings.Contains(err.Error(), "goroutine") {
		t.Error(err)
	}
	set(t, wild, "p, bob, *(, action, allow\np, bob, object, action, allow")
	if x := wild.Check("bob", "object", "action"); x.Allowed || !strings.Contains(x.Reason, "the model fails") || wild.Allowed("bob", "object", "action") {
		t.Errorf("%+v", x)
	}
	if err := e.SetPolicy(manyRules(maxCustomRules)); err == nil || !strings.Contains(err.Error(), "with rbac.model changed") {
		t.Error(err)
	}
	// With domains no role can be given by default: nobody has one.
	three := Config{Model: Model{RoleDefinition: []string{"_, _, _"}, Matchers: []string{"g(r.sub, p.sub, 'all') && r.obj == p.obj && r.act == p.act"}}}
	d := enforcer(t, three)
	d.Grant("carol", "guest")
	if d.Allowed("carol", "status", "read") {
		t.Error("carol has a role without a domain")
	}
	set(t, d, "g, carol, guest, all")
	if !d.Allowed("carol", "status", "read") {
		t.Error("carol has no role")
	}
}

// Asking only the rules that can match must decide as asking all does.
func TestDirectDecidesAsTheWholePolicyDoes(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	word := func(of string, n int) string { return fmt.Sprint(of, random.IntN(n)) }
	for range 20 {
		var text strings.Builder
		for range 60 {
			if random.IntN(3) == 0 {
				fmt.Fprintf(&text, "g, %s, %s\n", word("u", 12), word("u", 12))
			} else {
				fmt.Fprintf(&text, "p, %s, %s, %s, %s\n", word("u", 12), word("o", 3), word("a", 2), []string{"allow", "deny"}[random.IntN(2)])
			}
		}
		rs, err := newRules(Config{}, text.String())
		if err != nil {
			t.Fatal(err)
		}
		if !rs.direct {
			t.Fatal("the default model is not known as such")
		}
		rs.grant("u99", "u1")
		for _, user := range []string{"u0", "u1", "u2", "u3", "u4", "u5", "u11", "u99", "other", ""} {
			role := map[string]string{"u99": "u1"}[user]
			for o := range 4 {
				object, action := fmt.Sprint("o", o), word("a", 3)
				got, _ := rs.decide(rs.subjects(user, role), user, object, action)
				want, err := rs.enforce(rs.policy, user, object, action)
				if err != nil || got != want {
					t.Fatalf("seed %d: %s %s %s: %v, all rules say %v (%v)\n%s", seed, user, object, action, got, want, err, text.String())
				}
			}
		}
	}
}

// Roles of roles are followed as far as casbin does, here and there.
func TestDepthOfRoles(t *testing.T) {
	var text strings.Builder
	for i := range 14 {
		fmt.Fprintf(&text, "g, r%d, r%d\np, r%d, o%d, a, allow\n", i, i+1, i, i)
	}
	rs, err := newRules(Config{}, text.String())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 14 {
		got, _ := rs.decide(rs.subjects("r0", ""), "r0", fmt.Sprint("o", i), "a")
		want, _ := rs.enforce(rs.policy, "r0", fmt.Sprint("o", i), "a")
		if got != want || got != (i <= maxDepth) {
			t.Errorf("%d steps: %v, all rules say %v", i, got, want)
		}
	}
}

func TestDefaultModelHoweverSpelt(t *testing.T) {
	for name, c := range map[string]struct {
		m    Model
		want bool
	}{
		"none":    {Model{}, true},
		"spelt":   {Model{Matchers: []string{"g(r_sub,p_sub)&&r_obj==p_obj&&r_act==p_act"}, PolicyEffect: []string{"some(where (p_eft == allow)) && !some(where (p_eft == deny))"}}, true},
		"matcher": {Model{Matchers: []string{"g(r.sub, p.sub) && r.obj == p.obj && keyMatch(r.act, p.act)"}}, false},
		"effect":  {Model{PolicyEffect: []string{"some(where (p.eft == allow))"}}, false},
	} {
		rs, err := newRules(Config{Model: c.m}, "")
		if err != nil || rs.direct != c.want {
			t.Errorf("%s: %v %v", name, rs.direct, err)
		}
	}
}

func TestFollow(t *testing.T) {
	var log strings.Builder
	e := enforcer(t, Config{Await: true})
	hear := e.Follow("/casbinPolicy", slog.New(slog.NewTextHandler(&log, nil)))
	may := func() bool { return e.Allowed("alice", "capture", "write") }
	hear("/casbinPolicyOfOthers", []byte("p, alice, capture, write, allow"), false)
	if may() || e.Pending() == nil {
		t.Error("another key was taken for it")
	}
	hear("", nil, true)
	if e.Pending() != nil {
		t.Error("that there is none is not known")
	}
	hear("/casbinPolicy", []byte(sample(t)), false)
	hear("", nil, true) // a new connection to etcd
	if !may() {
		t.Error("not in force")
	}
	hear("/casbinPolicy", []byte("p, alice"), false)
	if !may() || !strings.Contains(log.String(), "line 1") || e.Status().State != "failed" {
		t.Errorf("a broken one: %v %+v\n%s", may(), e.Status(), log.String())
	}
	for _, text := range []string{"p, a, b, c, allow", sample(t), "", sample(t)} { // several at once: the last counts
		hear("/casbinPolicy", []byte(text), false)
	}
	if !may() {
		t.Error("the last of several is not in force")
	}
	hear("/casbinPolicy", nil, false)
	if may() || e.Status().State != "running" {
		t.Error("a policy that was deleted is in force")
	}
}

func TestPolicyChangesWhileOthersAsk(t *testing.T) {
	e := enforcer(t, Config{})
	good := sample(t)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 50 {
				user := fmt.Sprint("user", (i+j)%20)
				e.Grant(user, "guest")
				if !e.Allowed(user, "status", "read") || e.Allowed("bob", "topology", "read") || !e.Check(user, "topology", "read").Allowed {
					t.Errorf("%s: a right was lost on the way", user)
				}
				e.Permissions("alice")
			}
		})
	}
	for _, text := range []string{good, "", "p", "# nothing", good} {
		_ = e.SetPolicy(text) // one of them is wrong on purpose
	}
	wg.Wait()
	if !e.Allowed("alice", "capture", "write") {
		t.Error("the last policy is not in force")
	}
}

func TestGrantsStayBounded(t *testing.T) {
	e := enforcer(t, Config{})
	for i := range maxGranted {
		e.granted[fmt.Sprint("user", i)] = "guest" // as if: adding them all to casbin takes its time
	}
	e.Grant("bob", "guest")
	if len(e.granted) != maxGranted || !e.Allowed("bob", "status", "read") {
		t.Error(len(e.granted))
	}
}

func FuzzSetPolicy(f *testing.F) {
	f.Add(sample(f))
	f.Add("\uFEFFp, a, b, c, allow\r\n# x\rg, a, b\n")
	f.Add("p, \"a\", b, c, deny\ng, a, a\n")
	f.Add("p2, a\n\x00\xff")
	e := enforcer(f, Config{})
	f.Fuzz(func(t *testing.T, text string) {
		err := e.SetPolicy(text)
		if s := e.Status(); (err == nil) != (s.State == "running") {
			t.Fatalf("%v, but %+v", err, s)
		}
		if err != nil && len(err.Error()) > 2000 {
			t.Fatalf("%d bytes of error", len(err.Error()))
		}
		if e.Allowed("", "", "") || e.Allowed("guest", "capture", "write") {
			t.Fatal("a denied right was given") // a deny cannot be lifted
		}
		e.Check("a", "b", "c")
		e.Permissions("a")
	})
}

func BenchmarkLargePolicy(b *testing.B) {
	var text strings.Builder
	for i := range maxPolicyLines / 2 {
		fmt.Fprintf(&text, "p, role%d, capture, read, allow\ng, user%d, role%d\n", i, i, i)
	}
	e := enforcer(b, Config{})
	b.Run("set", func(b *testing.B) {
		for b.Loop() {
			clear(e.decided)
			set(b, e, text.String())
			set(b, e, "")
		}
	})
	set(b, e, text.String())
	b.Run("decide", func(b *testing.B) {
		for b.Loop() {
			clear(e.decided)
			if !e.Allowed("user7", "capture", "read") {
				b.Fatal("refused")
			}
		}
	})
}
