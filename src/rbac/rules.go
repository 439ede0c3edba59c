package rbac

import (
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/casbin/casbin/v2"
	"github.com/casbin/casbin/v2/model"
)

// Limits of a policy. What casbin does with a rule takes 15 µs, and a request asks them all when the model is not the default one.
const (
	maxPolicyBytes = 1 << 20
	maxPolicyLines = 10_000
	maxWord        = 1024
	// maxCustomRules is for models that are not the default one.
	maxCustomRules = 1000
	// maxDepth is how far casbin follows roles of roles.
	maxDepth = 10
)

// parts of the model, as they are when the configuration does not change them.
var parts = [...]struct{ section, name, fallback string }{
	{"r", "request_definition", "sub, obj, act"},
	{"p", "policy_definition", "sub, obj, act, eft"},
	{"g", "role_definition", "_, _"},
	{"e", "policy_effect", "some(where (p.eft == allow)) && !some(where (p.eft == deny))"},
	{"m", "matchers", "g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act"},
}

// rules are a model with all policies. Once built, only roles given by default are added.
type rules struct {
	casbin *casbin.Enforcer
	policy [][]string          // of p, in order
	from   map[string][]string // by the text of a line: where it stands
	roles  map[string]bool     // names of roles: bundled ones, and those that lines give to users
	links  map[string][]string // roles by user, as lines of g give them
	known  map[string]bool     // lines that were read, to leave out those that come again

	// When the model is the default one only rules about the same object and action can match: their places in policy, by both.
	direct bool
	places map[[2]string][]int
}

// newRules reads the policy of etcd, the bundled one and the lines of the configuration. The error names the part or the line that is wrong.
func newRules(cfg Config, stored string) (*rules, error) {
	m, err := newModel(cfg.Model)
	if err != nil {
		return nil, err
	}
	if err := checkStored(stored); err != nil {
		return nil, err
	}
	rs := &rules{from: map[string][]string{}, roles: map[string]bool{}, links: map[string][]string{}, known: map[string]bool{}, places: map[[2]string][]int{}}
	n := 0
	for line := range lines(stored) {
		n++
		if err := rs.add(m, line, fmt.Sprintf("etcd, line %d", n)); err != nil {
			return nil, &LineError{n, strings.TrimSpace(line), err}
		}
	}
	for i, line := range strings.Split(bundled, "\n") {
		if err := rs.add(m, line, fmt.Sprintf("bundled policy, line %d", i+1)); err != nil {
			return nil, fmt.Errorf("bundled policy line %d: %w", i+1, err)
		}
		if words, _ := split(line); len(words) > 1 && words[0] == "p" {
			rs.roles[words[1]] = true
		}
	}
	for i, line := range cfg.Policy {
		if err := rs.add(m, line, fmt.Sprintf("rbac.policy[%d]", i)); err != nil {
			return nil, fmt.Errorf("rbac.policy[%d] %q: %w", i, line, err)
		}
	}
	if rs.casbin, err = casbin.NewEnforcer(m, false); err != nil {
		return nil, fmt.Errorf("rbac.model: %w", err)
	}
	if err := rs.casbin.BuildRoleLinks(); err != nil {
		return nil, fmt.Errorf("rbac.model.role_definition: %w", err)
	}
	rs.policy = m["p"]["p"].Policy
	rs.index(cfg.Model)
	if !rs.direct && len(rs.policy) > maxCustomRules {
		return nil, fmt.Errorf("all policies together have %d rules, more than the %d that are taken with rbac.model changed", len(rs.policy), maxCustomRules)
	}
	probe := rs.policy
	if rs.direct {
		probe = probe[:1] // the model is known to be well, and asking all rules takes its time
	}
	if _, err := rs.enforce(probe, "user", "object", "action"); err != nil {
		return nil, fmt.Errorf("rbac.model: %w", err)
	}
	return rs, nil
}

func newModel(cfg Model) (model.Model, error) {
	m := model.NewModel()
	for i, given := range cfg.parts() {
		part := parts[i]
		if len(given) == 0 {
			given = []string{part.fallback}
		}
		for i, line := range given {
			key := part.section
			if i > 0 {
				key += strconv.Itoa(i + 1)
			}
			if !m.AddDef(part.section, key, line) {
				return nil, fmt.Errorf("rbac.model.%s: %q is empty", part.name, line)
			}
		}
	}
	return m, nil
}

// parts are in the order of the table above.
func (m Model) parts() [len(parts)][]string {
	return [...][]string{m.RequestDefinition, m.PolicyDefinition, m.RoleDefinition, m.PolicyEffect, m.Matchers}
}

// index finds out whether the model is the default one, however its parts are spelt.
func (rs *rules) index(cfg Model) {
	plain := strings.NewReplacer(" ", "", "p_", "p.", "r_", "r.").Replace
	for i, given := range cfg.parts() {
		if len(given) > 0 && plain(given[0]) != plain(parts[i].fallback) {
			return
		}
	}
	rs.direct = true
	for i, r := range rs.policy {
		at := [2]string{r[1], r[2]}
		rs.places[at] = append(rs.places[at], i)
	}
}

// LineError is a line of the policy in etcd that is wrong.
type LineError struct {
	Line int // from 1
	Text string
	Err  error
}

func (e *LineError) Error() string {
	return fmt.Sprintf("line %d %q: %v", e.Line, shortened(e.Text), e.Err)
}

// Unwrap returns what is wrong with it.
func (e *LineError) Unwrap() error { return e.Err }

func shortened(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

func checkStored(text string) error {
	switch {
	case len(text) > maxPolicyBytes:
		return fmt.Errorf("the policy has %d bytes, more than the %d that are taken", len(text), maxPolicyBytes)
	case !utf8.ValidString(text):
		n := 0
		for line := range lines(text) {
			if n++; !utf8.ValidString(line) {
				return &LineError{n, strings.ToValidUTF8(line, "\uFFFD"), errors.New("this is not UTF-8")}
			}
		}
	}
	n := 0
	for range lines(text) {
		n++
	}
	if n > maxPolicyLines {
		return fmt.Errorf("the policy has %d lines, more than the %d that are taken", n, maxPolicyLines)
	}
	return nil
}

// lines yields the lines of a file of any system, without the mark that some editors put first.
func lines(text string) func(yield func(string) bool) {
	text = strings.TrimPrefix(text, "\uFEFF")
	text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n")
	return strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n")
}

// split returns the words of a line, none for a comment or nothing.
func split(line string) ([]string, error) {
	line = strings.TrimSpace(line)
	if line == "" || strings.HasPrefix(line, "#") {
		return nil, nil
	}
	r := csv.NewReader(strings.NewReader(line))
	r.TrimLeadingSpace = true
	words, err := r.Read()
	if err != nil {
		return nil, err
	}
	for i := range words {
		words[i] = strings.TrimSpace(words[i])
	}
	return words, nil
}

// add takes over one line: "p, subject, object, action, effect", "g, user, role", a comment or nothing.
func (rs *rules) add(m model.Model, line, where string) error {
	words, err := split(line)
	if err != nil || words == nil {
		return err
	}
	key, words := words[0], words[1:]
	if key == "" || key[0] != 'p' && key[0] != 'g' {
		return fmt.Errorf("want p or g first, not %q", shortened(key))
	}
	section := key[:1]
	def, ok := m[section][key]
	if !ok {
		return fmt.Errorf("the model does not define %s", shortened(key))
	}
	if err := checkWords(section, key, def, words); err != nil {
		return err
	}
	text := key + ", " + strings.Join(words, ", ")
	rs.from[text] = append(rs.from[text], where)
	if section == "g" {
		rs.roles[words[1]] = true
	}
	if rs.known[text] {
		return nil
	}
	rs.known[text] = true
	if key == "g" {
		rs.links[words[0]] = append(rs.links[words[0]], words[1])
	}
	return m.AddPolicy(section, key, words)
}

func checkWords(section, key string, def *model.Assertion, words []string) error {
	if section == "g" {
		if want := strings.Count(def.Value, "_"); len(words) != want {
			return fmt.Errorf("want %d words after %s, not %d", want, key, len(words))
		}
	} else {
		if len(words) != len(def.Tokens) {
			return fmt.Errorf("want %d words after %s (%s), not %d", len(def.Tokens), key, def.Value, len(words))
		}
		if i := slices.Index(def.Tokens, key+"_eft"); i >= 0 && words[i] != "allow" && words[i] != "deny" {
			return fmt.Errorf("want the effect allow or deny, not %q", shortened(words[i]))
		}
	}
	for _, w := range words {
		switch {
		case w == "":
			return errors.New("a word is empty")
		case len(w) > maxWord:
			return fmt.Errorf("a word has %d bytes, more than %d", len(w), maxWord)
		case strings.Contains(w, ","): // casbin would take a rule for another one
			return fmt.Errorf("the word %q holds a comma", shortened(w))
		case strings.ContainsFunc(w, unicode.IsControl):
			return fmt.Errorf("the word %q holds a control character", shortened(w))
		}
	}
	return nil
}

// grant gives a role to a user that has none.
func (rs *rules) grant(user, role string) bool {
	if rs.roles[user] || len(rs.links[user]) > 0 {
		return false
	}
	added, err := rs.casbin.AddGroupingPolicy(user, role)
	return added && err == nil // a model may want more than two words: then there are no roles by default
}

// revoke undoes grant; there is nothing to undo when the policy has given the user another role since.
func (rs *rules) revoke(user, role string) {
	if !rs.roles[user] && len(rs.links[user]) == 0 {
		_, _ = rs.casbin.DeleteRoleForUser(user, role)
	}
}

// subjects are a user and all roles of that user, by steps. The default role counts for who has none.
func (rs *rules) subjects(user, role string) []string {
	list := []string{user}
	if role != "" && !rs.roles[user] && len(rs.links[user]) == 0 {
		list = append(list, role)
	}
	seen := map[string]bool{user: true, role: true}
	for i, depth := 0, 0; i < len(list) && depth < maxDepth; depth++ {
		for step := len(list); i < step; i++ {
			for _, next := range rs.links[list[i]] {
				if !seen[next] {
					seen[next] = true
					list = append(list, next)
				}
			}
		}
	}
	return list
}

// decide tells whether a user with these subjects (the name and all roles) may.
func (rs *rules) decide(subjects []string, user, object, action string) (bool, error) {
	if !rs.direct {
		return rs.enforce(rs.policy, user, object, action)
	}
	var candidates [][]string
	for _, i := range rs.places[[2]string{object, action}] {
		if slices.Contains(subjects, rs.policy[i][0]) {
			candidates = append(candidates, rs.policy[i])
		}
	}
	if len(candidates) == 0 {
		return false, nil
	}
	return rs.enforce(candidates, user, object, action)
}

// enforce lets casbin decide by some of the rules.
func (rs *rules) enforce(policy [][]string, user, object, action string) (bool, error) {
	rs.casbin.GetModel()["p"]["p"].Policy = policy
	allowed, err := rs.casbin.Enforce(user, object, action)
	if err != nil {
		line, _, _ := strings.Cut(err.Error(), "\n") // a stack may follow
		return false, fmt.Errorf("the model fails: %s", shortened(line))
	}
	return allowed, nil
}
