package rbac

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

func enforcer(t testing.TB, c Config) *Enforcer {
	t.Helper()
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// The table of the bundled policy: object, action, what admin and guest may.
func TestBundledPolicy(t *testing.T) {
	e := enforcer(t, Config{})
	for _, c := range []struct {
		object, actions string
		admin, guest    bool
	}{
		{"alert", "read write", true, false},
		{"capture", "read write rawpackets", true, false},
		{"injectpacket", "read write", true, false},
		{"workflow", "read write", true, false},
		{"config", "read", true, false},
		{"pcap", "write", true, false},
		{"status", "read", true, true},
		{"topology", "read", true, true},
		{"node", "read write", true, false},
		{"edge", "read write", true, false},
		{"noderule", "read write", true, false},
		{"edgerule", "read write", true, false},
		{"workflow.call", "write", true, false},
		{"websocket", "/ws/subscriber", true, true},
		{"websocket", "/ws/agent/topology /ws/agent/flow /ws/subscriber/flow /ws/publisher /ws/replication /ws/pubsub", true, false},
		{"config", "write", false, false},
		{"unknown", "read", false, false},
		{"", "", false, false},
	} {
		for _, action := range append(strings.Fields(c.actions), "") {
			if action == "" && c.actions != "" {
				continue
			}
			if e.Allowed("admin", c.object, action) != c.admin || e.Allowed("guest", c.object, action) != c.guest {
				t.Errorf("%s %s: not %v %v", c.object, action, c.admin, c.guest)
			}
			if e.Allowed("nobody", c.object, action) {
				t.Errorf("%s %s: a user without a role may", c.object, action)
			}
		}
	}
}

func TestGrant(t *testing.T) {
	e := enforcer(t, Config{Policy: []string{"g, carol, guest", "p, ops, capture, write, allow", "g, dave, ops", "g, ops2, ops"}})
	if e.Allowed("bob", "status", "read") {
		t.Error("bob may before")
	}
	e.Grant("bob", "guest")
	e.Grant("bob", "admin") // has a role
	e.Grant("carol", "admin")
	e.Grant("dave", "admin")
	e.Grant("erin", "ops2")   // transitive
	e.Grant("admin", "guest") // is a role, and would be denied everything
	e.Grant("ops", "guest")
	e.Grant("", "admin")
	e.Grant("frank", "")
	for _, c := range []struct {
		user, object, action string
		want                 bool
	}{
		{"bob", "status", "read", true}, {"bob", "capture", "write", false},
		{"carol", "topology", "read", true}, {"carol", "node", "write", false},
		{"dave", "capture", "write", true}, {"dave", "capture", "read", false},
		{"erin", "capture", "write", true}, {"admin", "capture", "write", true}, {"ops", "capture", "write", true},
		{"", "status", "read", false}, {"frank", "status", "read", false},
	} {
		if got := e.Allowed(c.user, c.object, c.action); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

func TestDenyWins(t *testing.T) {
	e := enforcer(t, Config{Policy: []string{"p, guest, capture, read, allow", "p, admin, config, read, deny"}})
	if e.Allowed("guest", "capture", "read") || e.Allowed("admin", "config", "read") {
		t.Error("an allow beat a deny")
	}
}

func TestPermissions(t *testing.T) {
	e := enforcer(t, Config{})
	e.Grant("bob", "guest")
	got := map[string]bool{}
	for _, p := range e.Permissions("bob") {
		got[p.Object+" "+p.Action] = p.Allowed
	}
	for want, allowed := range map[string]bool{"status read": true, "topology read": true, "capture write": false, "websocket /ws/subscriber": true, "websocket /ws/publisher": false} {
		if is, ok := got[want]; !ok || is != allowed {
			t.Errorf("%s: %v %v", want, is, ok)
		}
	}
	if _, ok := got["node write"]; ok {
		t.Error("node write is in nobody's rules for guests")
	}
	if len(e.Permissions("admin")) != 32 || len(e.Permissions("stranger")) != 0 {
		t.Error(len(e.Permissions("admin")), len(e.Permissions("stranger")))
	}
}

func TestPermissionsAreBounded(t *testing.T) {
	e := enforcer(t, Config{})
	set(t, e, manyRules(2*maxPermissions))
	if list := e.Permissions("any"); len(list) != maxPermissions || !list[0].Allowed {
		t.Error(len(list))
	}
}

func TestBrokenConfiguration(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{Policy: []string{"p, a, b, c, allow", "p, a, b, c"}}, `rbac.policy[1] "p, a, b, c"`},
		{Config{Policy: []string{"p, a, b, c, maybe"}}, "allow or deny"},
		{Config{Policy: []string{"x, a"}}, "want p or g"},
		{Config{Policy: []string{"p2, a, b, c, allow"}}, "does not define p2"},
		{Config{Policy: []string{"g, a"}}, "want 2 words"},
		{Config{Policy: []string{"g, a, b, c"}}, "want 2 words"},
		{Config{Policy: []string{"p, , b, c, allow"}}, "empty"},
		{Config{Policy: []string{`p, "a, b`}}, "rbac.policy[0]"},
		{Config{Model: Model{Matchers: []string{"r.sub == "}}}, "rbac.model"},
		{Config{Model: Model{Matchers: []string{""}}}, "rbac.model.matchers"},
		{Config{Model: Model{PolicyEffect: []string{"nonsense"}}}, "rbac.model"},
	} {
		if _, err := New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
	ok := Config{Policy: []string{"", "# nothing", "p,a,b,c,allow", "  p ,  a , b ,  d , deny "}}
	if e := enforcer(t, ok); !e.Allowed("a", "b", "c") || e.Allowed("a", "b", "d") {
		t.Error("lines with and without blanks")
	}
}

func TestModelOverride(t *testing.T) {
	// As the sample configuration spells the defaults, and with a matcher of its own: everybody may read.
	e := enforcer(t, Config{Model: Model{
		RequestDefinition: []string{"sub, obj, act"}, PolicyDefinition: []string{"sub, obj, act, eft"}, RoleDefinition: []string{"_, _"},
		PolicyEffect: []string{"some(where (p_eft == allow)) && !some(where (p_eft == deny))"},
		Matchers:     []string{"(g(r.sub, p.sub) || p.sub == 'any') && r.obj == p.obj && r.act == p.act"},
	}, Policy: []string{"p, any, node, read, allow"}})
	if !e.Allowed("stranger", "node", "read") || e.Allowed("stranger", "node", "write") || !e.Allowed("admin", "node", "write") {
		t.Error("override not in force")
	}
}

// The packaged file is the bundled one.
func TestPackagedPolicyIsTheBundledOne(t *testing.T) {
	file, err := os.ReadFile("../../etc/policy.csv")
	if err != nil || string(file) != bundled {
		t.Errorf("etc/policy.csv differs from src/rbac/policy.csv: run make generate (%v)", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	e := enforcer(t, Config{})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				user := fmt.Sprint("user", (i+j)%20)
				e.Grant(user, "guest")
				if !e.Allowed(user, "status", "read") || len(e.Permissions(user)) == 0 {
					t.Error(user)
				}
			}
		})
	}
	wg.Wait()
}

func TestDecisionsStayBounded(t *testing.T) {
	e := enforcer(t, Config{})
	e.decided = map[request]bool{}
	for i := range maxDecided + 10 {
		e.decided[request{object: fmt.Sprint(i)}] = false
	}
	if e.Allowed("guest", "x", "y"); len(e.decided) > 1 {
		t.Error(len(e.decided))
	}
}

func BenchmarkAllowed(b *testing.B) {
	e := enforcer(b, Config{})
	for b.Loop() {
		e.Allowed("admin", "topology", "read")
	}
}
