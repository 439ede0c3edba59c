// Package rbac decides who may do what: a casbin model, the bundled policy and the lines of the configuration. What no rule allows is
// refused, and a rule that denies wins over all that allow.
//
// It does not know who calls – that is authentication – and keeps roles given by default in memory only.
package rbac

import (
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/casbin/casbin/v2"
	"github.com/casbin/casbin/v2/model"
)

//go:embed policy.csv
var bundled string

// Model overrides parts of the casbin model; a part left empty keeps its default. Further entries of a part are named p2, m2 and so on.
type Model struct {
	RequestDefinition, PolicyDefinition, RoleDefinition, PolicyEffect, Matchers []string
}

// Config is the section rbac of the configuration.
type Config struct {
	Model  Model
	Policy []string // casbin lines, added to the bundled ones
}

// Permission is one right of a user: the unnamed struct, so that others can name it without importing this package.
type Permission = struct {
	Object, Action string
	Allowed        bool
}

// Enforcer decides. Its methods may be called by several goroutines.
type Enforcer struct {
	mu      sync.Mutex // guards all below
	casbin  *casbin.Enforcer
	decided map[request]bool // an enforcement costs tens of microseconds, and each request asks
	roles   map[string]bool  // the bundled ones, and those that lines give to users
}

type request struct{ user, object, action string }

// maxDecided bounds the memory of decisions; beyond it they are simply taken again.
const maxDecided = 10_000

// New builds the model and reads all policies; the error names the part or the line that is wrong.
func New(cfg Config) (*Enforcer, error) {
	m := model.NewModel()
	for _, part := range []struct {
		section, name, fallback string
		lines                   []string
	}{
		{"r", "request_definition", "sub, obj, act", cfg.Model.RequestDefinition},
		{"p", "policy_definition", "sub, obj, act, eft", cfg.Model.PolicyDefinition},
		{"g", "role_definition", "_, _", cfg.Model.RoleDefinition},
		{"e", "policy_effect", "some(where (p.eft == allow)) && !some(where (p.eft == deny))", cfg.Model.PolicyEffect},
		{"m", "matchers", "g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act", cfg.Model.Matchers},
	} {
		if len(part.lines) == 0 {
			part.lines = []string{part.fallback}
		}
		for i, line := range part.lines {
			key := part.section
			if i > 0 {
				key += strconv.Itoa(i + 1)
			}
			if !m.AddDef(part.section, key, line) {
				return nil, fmt.Errorf("rbac.model.%s: %q is empty", part.name, line)
			}
		}
	}
	e := &Enforcer{decided: map[request]bool{}, roles: map[string]bool{}}
	var err error
	if e.casbin, err = casbin.NewEnforcer(m, false); err != nil {
		return nil, fmt.Errorf("rbac.model: %w", err)
	}
	for i, line := range strings.Split(bundled, "\n") {
		if err := e.add(line); err != nil {
			return nil, fmt.Errorf("bundled policy line %d: %w", i+1, err)
		}
	}
	for _, role := range e.casbin.GetModel()["p"]["p"].Policy {
		e.roles[role[0]] = true
	}
	for i, line := range cfg.Policy {
		if err := e.add(line); err != nil {
			return nil, fmt.Errorf("rbac.policy[%d] %q: %w", i, line, err)
		}
	}
	if _, err := e.casbin.Enforce("user", "object", "action"); err != nil {
		return nil, fmt.Errorf("rbac.model: %w", err)
	}
	return e, nil
}

// add takes over one line: "p, subject, object, action, effect", "g, user, role", a comment or nothing.
func (e *Enforcer) add(line string) error {
	line = strings.TrimSpace(line)
	if line == "" || strings.HasPrefix(line, "#") {
		return nil
	}
	r := csv.NewReader(strings.NewReader(line))
	r.TrimLeadingSpace = true
	words, err := r.Read()
	if err != nil {
		return err
	}
	for i := range words {
		words[i] = strings.TrimSpace(words[i])
	}
	key, words := words[0], words[1:]
	if key == "" || key[0] != 'p' && key[0] != 'g' {
		return fmt.Errorf("want p or g first, not %q", key)
	}
	section := key[:1]
	def, ok := e.casbin.GetModel()[section][key]
	if !ok {
		return fmt.Errorf("the model does not define %s", key)
	}
	if section == "g" {
		if want := strings.Count(def.Value, "_"); len(words) != want {
			return fmt.Errorf("want %d words after %s, not %d", want, key, len(words))
		}
	} else {
		if len(words) != len(def.Tokens) {
			return fmt.Errorf("want %d words after %s (%s), not %d", len(def.Tokens), key, def.Value, len(words))
		}
		if i := slices.Index(def.Tokens, key+"_eft"); i >= 0 && words[i] != "allow" && words[i] != "deny" {
			return fmt.Errorf("want the effect allow or deny, not %q", words[i])
		}
	}
	if slices.Contains(words, "") {
		return errors.New("a word is empty")
	}
	if section == "g" {
		e.roles[words[1]] = true
		_, err = e.casbin.AddNamedGroupingPolicy(key, words)
	} else {
		_, err = e.casbin.AddNamedPolicy(key, words)
	}
	return err
}

// Allowed tells whether a user may do an action (read, write, …) to an object. An error of the model counts as no.
func (e *Enforcer) Allowed(user, object, action string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.allowed(request{user, object, action})
}

func (e *Enforcer) allowed(r request) bool {
	if allowed, ok := e.decided[r]; ok {
		return allowed
	}
	allowed, err := e.casbin.Enforce(r.user, r.object, r.action)
	allowed = allowed && err == nil
	if len(e.decided) >= maxDecided {
		clear(e.decided)
	}
	e.decided[r] = allowed
	return allowed
}

// Permissions lists what the policies say about a user and the roles of that user, and what comes of it, sorted by object and action.
func (e *Enforcer) Permissions(user string) []Permission {
	e.mu.Lock()
	defer e.mu.Unlock()
	subjects, err := e.casbin.GetImplicitRolesForUser(user)
	if err != nil {
		return nil
	}
	subjects = append(subjects, user)
	seen := map[request]bool{}
	list := []Permission{}
	rules, _ := e.casbin.GetPolicy()
	for _, rule := range rules {
		if len(rule) < 3 || !slices.Contains(subjects, rule[0]) {
			continue
		}
		r := request{user, rule[1], rule[2]}
		if !seen[r] {
			seen[r] = true
			list = append(list, Permission{Object: r.object, Action: r.action, Allowed: e.allowed(r)})
		}
	}
	slices.SortFunc(list, func(a, b Permission) int {
		return strings.Compare(a.Object+"\x00"+a.Action, b.Object+"\x00"+b.Action)
	})
	return list
}

// Grant gives a user a role, unless the user has one already. A user who is called like a role has that one.
func (e *Enforcer) Grant(user, role string) {
	if user == "" || role == "" || user == role {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.roles[user] {
		return
	}
	if roles, err := e.casbin.GetRolesForUser(user); err != nil || len(roles) > 0 {
		return
	}
	if added, err := e.casbin.AddGroupingPolicy(user, role); added && err == nil {
		clear(e.decided)
	}
}
