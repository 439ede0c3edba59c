// Package rbac decides who may do what: a casbin model, and the policies of etcd, of the bundled file and of the configuration, added up.
// What no rule allows is refused, and a rule that denies wins over all that allow.
//
// It does not know who calls – that is authentication – nor where a policy is stored, and keeps roles given by default in memory only. A
// policy that is wrong is refused as a whole, and the last good one stays.
package rbac

import (
	_ "embed"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
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
	// Await tells that a policy is yet to be set: see Pending.
	Await bool
	// DefaultRole is what Check takes for the role of a user who has none and did not call yet.
	DefaultRole string
}

// Permission is one right of a user: the unnamed struct, so that others can name it without importing this package.
type Permission = struct {
	Object, Action string
	Allowed        bool
}

// State tells which policy is in force.
type State struct {
	State  string // "running"; "failed": the last policy set was refused; "starting": it is not known yet
	Reason string `json:",omitempty"`
	Since  time.Time
	Source []string // what the policy in force is made of
	Rules  int
}

// Enforcer decides. Its methods may be called by several goroutines.
type Enforcer struct {
	cfg    Config
	door   *Enforcer // what Separate returned
	checks checker

	mu      sync.Mutex // guards all below
	rules   *rules
	stored  string            // the policy of etcd in force
	granted map[string]string // default role by user
	decided map[request]bool  // an enforcement costs tens of microseconds, and each request asks
	changed chan struct{}     // closed when another policy is in force
	state   State
	pending bool // the configuration awaits a policy, and no right one was set yet
}

type request struct{ user, object, action string }

const (
	// maxDecided bounds the memory of decisions; beyond it they are simply taken again.
	maxDecided = 10_000
	// maxGranted bounds the roles given by default; beyond it one of them is forgotten, until that user calls again.
	maxGranted = 100_000
	// maxPermissions bounds the list of what a user may.
	maxPermissions = 500
)

// New builds the model and reads the policies of file and configuration; the error names the part or the line that is wrong.
func New(cfg Config) (*Enforcer, error) {
	rs, err := newRules(cfg, "")
	if err != nil {
		return nil, err
	}
	e := &Enforcer{cfg: cfg, rules: rs, granted: map[string]string{}, decided: map[request]bool{}, changed: make(chan struct{})}
	e.setState("running", "")
	if e.pending = cfg.Await; e.pending {
		e.setState("starting", errPending.Error())
	}
	return e, nil
}

// Separate returns an enforcer, always the same, that has the policies of e, now and later, but default roles of its own. It is for another
// door: who comes in there and gets a mighty role by default must not have it here. It awaits nothing. It must be called before the
// first SetPolicy.
func (e *Enforcer) Separate() (*Enforcer, error) {
	if e.door == nil {
		cfg := e.cfg
		cfg.Await, cfg.DefaultRole = false, ""
		var err error
		if e.door, err = New(cfg); err != nil {
			return nil, err
		}
	}
	return e.door, nil
}

func (e *Enforcer) setState(state, reason string) {
	e.state = State{State: state, Reason: reason, Since: time.Now(), Source: []string{"bundled policy"}, Rules: len(e.rules.policy)}
	if len(e.cfg.Policy) > 0 {
		e.state.Source = append(e.state.Source, "rbac.policy")
	}
	if e.stored != "" {
		e.state.Source = append(e.state.Source, "etcd")
	}
}

// Status tells which policy is in force, and whether the last one was refused.
func (e *Enforcer) Status() State {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state
}

var errPending = errors.New("the policy in etcd is not known yet")

// Pending is an error until a right policy was set for the first time, when the configuration wants one to be awaited: what the rules known
// so far allow might be denied.
func (e *Enforcer) Pending() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case !e.pending:
		return nil
	case e.state.State == "failed":
		return errors.New(e.state.Reason)
	}
	return errPending
}

// Changed returns a channel that is closed when another policy is in force: users may have lost rights.
func (e *Enforcer) Changed() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}

// SetPolicy replaces the policy of etcd; an empty one drops it. One that is wrong is refused with a *LineError, where it is a line: then
// the former one stays in force. Roles given by default stay, unless the policy now gives the user another one.
func (e *Enforcer) SetPolicy(csv string) error {
	if e.door != nil { // first, so that it is done when Changed tells
		_ = e.door.SetPolicy(csv) // fails as this one does
	}
	rs, err := newRules(e.cfg, csv)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		stays := "and the one before stays in force"
		if e.pending {
			stays = "and there is none before"
		}
		e.setState("failed", "the policy in etcd is refused, "+stays+": "+err.Error())
		return err
	}
	if csv == e.stored && e.state.State == "running" {
		return nil
	}
	for user, role := range e.granted {
		rs.grant(user, role)
	}
	e.rules, e.stored, e.pending = rs, csv, false
	e.setState("running", "")
	clear(e.decided)
	close(e.changed)
	e.changed = make(chan struct{})
	return nil
}

// TryPolicy tells what SetPolicy would say to a policy, and whether a user could do something under it.
func (e *Enforcer) TryPolicy(csv, user, object, action string) (allowed bool, err error) {
	rs, err := newRules(e.cfg, csv)
	if err != nil {
		return false, err
	}
	e.mu.Lock()
	role := e.granted[user]
	e.mu.Unlock()
	if role != "" {
		rs.grant(user, role)
	}
	allowed, err = rs.decide(rs.subjects(user, role), user, object, action)
	return allowed && err == nil, nil
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
	allowed, err := e.rules.decide(e.rules.subjects(r.user, e.granted[r.user]), r.user, r.object, r.action)
	allowed = allowed && err == nil
	if len(e.decided) >= maxDecided {
		clear(e.decided)
		_ = e.rules.casbin.BuildRoleLinks() // it remembers what it was asked, too, until the roles are built anew
	}
	e.decided[r] = allowed
	return allowed
}

// Permissions lists what the policies say about a user and the roles of that user, and what comes of it, sorted by object and action.
// There are as many of them as a page can use.
func (e *Enforcer) Permissions(user string) []Permission {
	list := []Permission{}
	for _, r := range e.mentioned(user) {
		list = append(list, Permission{Object: r.object, Action: r.action, Allowed: e.Allowed(r.user, r.object, r.action)}) // others get their turn
	}
	slices.SortFunc(list, func(a, b Permission) int {
		return strings.Compare(a.Object+"\x00"+a.Action, b.Object+"\x00"+b.Action)
	})
	return list
}

// mentioned lists what rules say about a user and the roles of that user.
func (e *Enforcer) mentioned(user string) (list []request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	subjects := e.rules.subjects(user, e.granted[user])
	seen := map[request]bool{}
	for _, rule := range e.rules.policy {
		if len(rule) < 3 || !slices.Contains(subjects, rule[0]) {
			continue
		}
		if r := (request{user, rule[1], rule[2]}); !seen[r] && len(list) < maxPermissions {
			seen[r] = true
			list = append(list, r)
		}
	}
	return list
}

// Grant gives a user a role, unless the user has one already. A user who is called like a role has that one.
func (e *Enforcer) Grant(user, role string) {
	if user == "" || role == "" || user == role {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, ok := e.granted[user]; ok {
		return
	}
	if len(e.granted) >= maxGranted {
		for other, had := range e.granted {
			e.revoke(other, had)
			break
		}
	}
	// It counts as soon as the policy gives the user no other role.
	e.granted[user] = role
	if e.rules.grant(user, role) {
		clear(e.decided)
	}
}

// revoke forgets a role given by default.
func (e *Enforcer) revoke(user, role string) {
	delete(e.granted, user)
	e.rules.revoke(user, role)
	clear(e.decided)
}
