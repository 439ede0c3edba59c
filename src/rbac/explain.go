package rbac

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Explanation is a decision and all that led to it.
type Explanation struct {
	User, Object, Action string
	Allowed              bool
	Reason               string // one sentence
	Roles                []Role // of the user, the nearest first
	Rules                []Rule // those that match
}

// Role is one that a user has.
type Role struct {
	Name string
	Of   string   // the user, or the role that brings this one
	From []string // where it is given
}

// Rule is one that matches.
type Rule struct {
	Text string // as a line of the policy
	Deny bool
	From []string // where it stands
}

// maxExplained bounds the rules in an explanation: more explain nothing.
const maxExplained = 100

// checker holds a second set of rules, for explanations: they take longer than decisions, and must not hold those up.
type checker struct {
	mu     sync.Mutex // guards what follows
	rules  *rules
	stored string // the policy of etcd in rules
}

// Check explains a decision. Who has no role and did not call yet is taken to have the default one.
func (e *Enforcer) Check(user, object, action string) Explanation {
	e.mu.Lock()
	stored, pending := e.stored, e.pending
	role, given := e.granted[user]
	e.mu.Unlock()
	if !given {
		role = e.cfg.DefaultRole
	}
	x := Explanation{User: user, Object: object, Action: action, Roles: []Role{}, Rules: []Rule{}}
	c := &e.checks
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rules == nil || c.stored != stored {
		rs, err := newRules(e.cfg, stored)
		if err != nil { // it was in force, so that there is none
			x.Reason = err.Error()
			return x
		}
		c.rules, c.stored = rs, stored
	}
	if user == role {
		role = ""
	}
	if role != "" && c.rules.grant(user, role) {
		defer c.rules.revoke(user, role)
	}
	subjects := c.rules.subjects(user, role)
	x.Roles = c.rules.chain(subjects)
	allowed, err := c.rules.decide(subjects, user, object, action)
	if err != nil {
		x.Reason = err.Error()
		return x
	}
	x.Allowed, x.Rules = allowed, c.rules.matching(subjects, user, object, action)
	x.Reason = x.reason()
	if pending && allowed {
		x.Allowed, x.Reason = false, errPending.Error()+"; it would be "+x.Reason
	}
	return x
}

func (x *Explanation) reason() string {
	denies := slices.IndexFunc(x.Rules, func(r Rule) bool { return r.Deny })
	allows := slices.IndexFunc(x.Rules, func(r Rule) bool { return !r.Deny })
	who := "'" + x.User + "'"
	if len(x.Roles) > 0 {
		var names []string
		for _, r := range x.Roles {
			names = append(names, "'"+r.Name+"'")
		}
		who += " or as " + strings.Join(names, ", ")
	}
	switch {
	case x.Allowed && allows >= 0 && denies < 0:
		return "allowed by " + x.Rules[allows].String()
	case x.Allowed && allows >= 0:
		return fmt.Sprintf("allowed by %s, though %s denies it: the effect of the model decides", x.Rules[allows], x.Rules[denies])
	case x.Allowed:
		return "allowed by the model, without a rule that matches"
	case denies >= 0 && allows >= 0:
		return fmt.Sprintf("denied by %s, though %s allows it", x.Rules[denies], x.Rules[allows])
	case denies >= 0:
		return "denied by " + x.Rules[denies].String()
	case allows >= 0:
		return "rules match, but the effect of the model refuses"
	}
	return fmt.Sprintf("no rule allows '%s' on '%s' to %s", x.Action, x.Object, who)
}

func (r Rule) String() string { return fmt.Sprintf("%q (%s)", r.Text, strings.Join(r.From, "; ")) }

// chain lists the roles among subjects, each with what brings it.
func (rs *rules) chain(subjects []string) []Role {
	list := []Role{}
	for i, name := range subjects[1:] {
		r := Role{Name: name, Of: subjects[0], From: []string{"by default"}}
		for _, of := range subjects[:i+1] {
			if slices.Contains(rs.links[of], name) {
				r.Of, r.From = of, rs.from["g, "+of+", "+name]
				break
			}
		}
		list = append(list, r)
	}
	return list
}

// matching returns the rules that match, whatever comes of them: casbin is asked about each alone, taken for one that allows.
func (rs *rules) matching(subjects []string, user, object, action string) []Rule {
	found := []Rule{}
	eft := slices.Index(rs.casbin.GetModel()["p"]["p"].Tokens, "p_eft")
	effect := rs.casbin.GetModel()["e"]["e"]
	said := effect.Value
	effect.Value = "some(where (p_eft == allow))"
	defer func() { effect.Value = said }()
	for _, words := range rs.policy {
		if len(found) == maxExplained {
			break
		}
		if rs.direct && (words[1] != object || words[2] != action || !slices.Contains(subjects, words[0])) {
			continue
		}
		asked := slices.Clone(words)
		if eft >= 0 {
			asked[eft] = "allow"
		}
		if matches, err := rs.enforce([][]string{asked}, user, object, action); err != nil || !matches {
			continue
		}
		text := "p, " + strings.Join(words, ", ")
		found = append(found, Rule{Text: text, Deny: eft >= 0 && words[eft] == "deny", From: rs.from[text]})
	}
	return found
}
