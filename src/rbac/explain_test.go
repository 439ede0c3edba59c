package rbac

import (
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	e := enforcer(t, Config{DefaultRole: "guest", Policy: []string{"p, alice, capture, write, allow", "g, team, guests"}})
	set(t, e, "# who sees what\n"+sample(t)+"g, erin, team\np, mallory, node, read, allow\np, mallory, node, read, deny\n")
	e.Grant("frank", "admin")
	for _, c := range []struct {
		user, object, action string
		allowed              bool
		reason               string
		roles, rules         []string // "name of what (from)" and "text (from)"
	}{
		{"alice", "capture", "write", true, `allowed by "p, alice, capture, write, allow" (etcd, line 7; rbac.policy[0])`,
			[]string{"guests of alice (etcd, line 6)"}, []string{"p, alice, capture, write, allow (etcd, line 7; rbac.policy[0])"}},
		{"bob", "topology", "read", false, `denied by "p, bob, topology, read, deny" (etcd, line 8), though "p, guests, topology, read, allow" (etcd, line 4) allows it`,
			[]string{"guests of bob (etcd, line 5)"}, []string{"p, guests, topology, read, allow (etcd, line 4)", "p, bob, topology, read, deny (etcd, line 8)"}},
		{"bob", "capture", "write", false, "no rule allows 'write' on 'capture' to 'bob' or as 'guests'", []string{"guests of bob (etcd, line 5)"}, nil},
		{"erin", "alert", "read", true, `allowed by "p, guests, alert, read, allow" (etcd, line 2)`,
			[]string{"team of erin (etcd, line 9)", "guests of team (rbac.policy[1])"}, []string{"p, guests, alert, read, allow (etcd, line 2)"}},
		{"mallory", "node", "read", false, "denied by", []string{"guest of mallory (by default)"}, []string{"p, mallory, node, read, allow (etcd, line 10)", "p, mallory, node, read, deny (etcd, line 11)"}},
		{"frank", "pcap", "write", true, "allowed by", []string{"admin of frank (by default)"}, []string{"p, admin, pcap, write, allow (bundled policy, line 23)"}},
		{"stranger", "status", "read", true, "allowed by", []string{"guest of stranger (by default)"}, []string{"p, guest, status, read, allow (bundled policy, line 26)"}},
		{"stranger", "capture", "read", false, "denied by", []string{"guest of stranger (by default)"}, []string{"p, guest, capture, read, deny (bundled policy, line 8)"}},
		{"guest", "status", "read", true, "allowed by", nil, []string{"p, guest, status, read, allow (bundled policy, line 26)"}},
		{"admin", "nothing", "read", false, "no rule allows 'read' on 'nothing' to 'admin'", nil, nil},
	} {
		x := e.Check(c.user, c.object, c.action)
		var roles, rules []string
		for _, r := range x.Roles {
			roles = append(roles, r.Name+" of "+r.Of+" ("+strings.Join(r.From, "; ")+")")
		}
		for _, r := range x.Rules {
			rules = append(rules, r.Text+" ("+strings.Join(r.From, "; ")+")")
			if r.Deny != strings.HasSuffix(r.Text, "deny") {
				t.Errorf("%+v", r)
			}
		}
		if x.User != c.user || x.Object != c.object || x.Action != c.action || x.Allowed != c.allowed || !strings.HasPrefix(x.Reason, c.reason) || !slices.Equal(roles, c.roles) || !slices.Equal(rules, c.rules) {
			t.Errorf("%s %s %s: %v %s\n%q\n%q", c.user, c.object, c.action, x.Allowed, x.Reason, roles, rules)
		}
		// The question must leave nothing behind.
		if c.user != "stranger" && c.user != "mallory" && e.Allowed(c.user, c.object, c.action) != c.allowed {
			t.Errorf("%s %s %s: decided otherwise", c.user, c.object, c.action)
		}
	}
	if e.Allowed("stranger", "status", "read") {
		t.Error("the stranger has a role since somebody asked")
	}
}

func TestCheckFollowsThePolicy(t *testing.T) {
	e := enforcer(t, Config{Await: true})
	e.Grant("carol", "admin")
	if x := e.Check("carol", "topology", "read"); x.Allowed || !strings.HasPrefix(x.Reason, "the policy in etcd is not known yet; it would be allowed by") {
		t.Errorf("%+v", x)
	}
	for _, c := range []struct {
		policy string
		want   bool
	}{{"", true}, {"g, carol, guest", false}, {"", true}, {"p, carol, capture, write, deny", false}} {
		set(t, e, c.policy)
		if x := e.Check("carol", "capture", "write"); x.Allowed != c.want || e.Allowed("carol", "capture", "write") != c.want {
			t.Errorf("%q: %+v", c.policy, x)
		}
	}
}

func TestCheckIsBounded(t *testing.T) {
	e := enforcer(t, Config{Model: Model{Matchers: []string{"r.obj == p.obj && r.act == p.act || p.sub == 'any'"}}})
	set(t, e, strings.Repeat("p, any, x, y, allow\n", 1)+manyRules(300))
	if x := e.Check("bob", "topology", "read"); len(x.Rules) != maxExplained {
		t.Error(len(x.Rules))
	}
}

func manyRules(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("p, any, x, y" + strconv.Itoa(i) + ", allow\n")
	}
	return b.String()
}
