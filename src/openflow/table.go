package openflow

// Key identifies a rule within its switch.
type Key struct {
	Table    uint8
	Priority uint16
	Match    Match
}

// Key returns what identifies the rule.
func (r *Rule) Key() Key { return Key{r.Table, r.Priority, r.Match} }

// table holds the rules and groups of a switch as far as they are known, across connections.
type table struct {
	rules  map[Key]*entry
	groups map[uint32]*groupEntry
	limit  int
	bytes  int // of matches and instructions

	generation uint32 // of the dump of rules that goes on, or was last
	groupTurn  uint32

	// Left out by the dumps that go on, and by those that ended last.
	omitted, omittedGroups         int
	lastOmitted, lastOmittedGroups int

	pending     []*entry // changed since the last take
	gone        []Key
	dirtyGroups []*groupEntry
	goneGroups  []uint32
	told        int // omitted, as it was said last
}

// bytesPerRule is what a rule may take on average, or else there are too many.
const bytesPerRule = 512

type entry struct {
	Rule
	seen        uint32
	dirty, dead bool
}

func (e *entry) bytes() int { return len(e.Match) + len(e.Instructions.raw) }

type groupEntry struct {
	Group
	seen        uint32
	dirty, dead bool
}

func newTable(limit int) table {
	return table{rules: make(map[Key]*entry), groups: make(map[uint32]*groupEntry), limit: limit}
}

func (t *table) touch(e *entry) {
	if !e.dirty {
		e.dirty = true
		t.pending = append(t.pending, e)
	}
}

// put takes in a rule from a dump, or from an event, which tells neither counters nor all attributes.
func (t *table) put(v Version, r *rawRule, event bool) {
	e := t.rules[Key{r.Table, r.Priority, Match(r.match)}]
	if e == nil {
		if len(t.rules) >= t.limit || t.bytes+len(r.match)+len(r.instructions) > t.limit*bytesPerRule {
			t.omitted++
			return
		}
		e = &entry{Rule: *r.keep(v)}
		t.bytes += e.bytes()
		t.rules[e.Key()] = e
		t.touch(e)
	} else {
		now := r.Rule
		now.Match, now.Instructions = e.Match, e.Instructions
		if e.Instructions.version != v || e.Instructions.raw != string(r.instructions) {
			now.Instructions = Instructions{v, string(r.instructions)}
			t.bytes += len(r.instructions) - len(e.Instructions.raw)
		}
		if event {
			now.Packets, now.Bytes, now.Flags, now.Importance = e.Packets, e.Bytes, e.Flags, e.Importance
		}
		if now != e.Rule {
			e.Rule = now
			t.touch(e)
		}
	}
	e.seen = t.generation
}

func (t *table) remove(r *rawRule) {
	if e := t.rules[Key{r.Table, r.Priority, Match(r.match)}]; e != nil {
		t.drop(e)
	}
}

func (t *table) drop(e *entry) {
	e.dead = true
	t.bytes -= e.bytes()
	delete(t.rules, e.Key())
	t.gone = append(t.gone, e.Key())
}

// begin starts a dump of all rules.
func (t *table) begin() {
	t.generation++
	t.omitted = 0
}

// end drops what the dump did not show, and no event after it began.
func (t *table) end() {
	for _, e := range t.rules {
		if e.seen != t.generation {
			t.drop(e)
		}
	}
	t.lastOmitted = t.omitted
}

func (t *table) putGroup(g Group) {
	e := t.groups[g.ID]
	switch {
	case e == nil:
		if len(t.groups) >= t.limit || t.bytes+len(g.raw) > t.limit*bytesPerRule {
			t.omittedGroups++
			return
		}
		t.bytes += len(g.raw)
		e = &groupEntry{Group: g}
		t.groups[g.ID] = e
	case e.raw == g.raw:
		e.seen = t.groupTurn
		return
	default:
		t.bytes += len(g.raw) - len(e.raw)
		e.Group = g
	}
	e.seen = t.groupTurn
	if !e.dirty {
		e.dirty = true
		t.dirtyGroups = append(t.dirtyGroups, e)
	}
}

// beginGroups starts a dump of all groups.
func (t *table) beginGroups() {
	t.groupTurn++
	t.omittedGroups = 0
}

func (t *table) endGroups() {
	t.lastOmittedGroups = t.omittedGroups
	for id, e := range t.groups {
		if e.seen != t.groupTurn {
			e.dead = true
			t.bytes -= len(e.raw)
			delete(t.groups, id)
			t.goneGroups = append(t.goneGroups, id)
		}
	}
}

// forget drops all.
func (t *table) forget() {
	t.begin()
	t.end()
	t.beginGroups()
	t.endGroups()
}

// changed tells whether take would return anything.
func (t *table) changed() bool {
	return len(t.pending)+len(t.gone)+len(t.dirtyGroups)+len(t.goneGroups) > 0 || t.told != t.lastOmitted+t.lastOmittedGroups
}

// take returns what changed since it was called last.
func (t *table) take() (u Update, any bool) {
	if !t.changed() {
		return u, false
	}
	u = Update{GoneRules: t.gone, GoneGroups: t.goneGroups, Omitted: t.lastOmitted + t.lastOmittedGroups}
	for _, e := range t.pending {
		e.dirty = false
		if !e.dead {
			u.Rules = append(u.Rules, &e.Rule)
		}
	}
	for _, e := range t.dirtyGroups {
		e.dirty = false
		if !e.dead {
			u.Groups = append(u.Groups, &e.Group)
		}
	}
	t.pending, t.gone, t.dirtyGroups, t.goneGroups, t.told = nil, nil, nil, nil, u.Omitted
	return u, true
}
