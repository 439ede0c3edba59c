package ovsdb

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/openflow"
)

// shownRule is a rule that is in the graph.
type shownRule struct {
	node         string
	cookie       uint64
	read         bool // counters are known
	at           time.Time
	packets      uint64
	bytes        uint64
	metric, grew field.Object
}

// perCommit bounds how long the graph is held by rules.
const perCommit = 1000

// publish puts changes of rules and groups into the graph.
func (b *flowBridge) publish(u openflow.Update) error {
	now := time.Now()
	for len(u.GoneRules)+len(u.GoneGroups)+len(u.Rules)+len(u.Groups) > 0 {
		var part openflow.Update
		room := perCommit
		part.GoneRules, u.GoneRules = split(u.GoneRules, &room)
		part.GoneGroups, u.GoneGroups = split(u.GoneGroups, &room)
		part.Groups, u.Groups = split(u.Groups, &room)
		part.Rules, u.Rules = split(u.Rules, &room)
		if err := b.env.Graph.Update("", func(tx *graph.Tx) error { return b.put(tx, part, now) }); err != nil {
			return err
		}
	}
	return nil
}

// split takes as many as there is room for.
func split[T any](all []T, room *int) (head, tail []T) {
	n := min(len(all), *room)
	*room -= n
	return all[:n], all[n:]
}

func (b *flowBridge) put(tx *graph.Tx, u openflow.Update, now time.Time) error {
	for _, key := range u.GoneRules {
		if r := b.rules[key]; r != nil {
			delete(b.rules, key)
			if err := dropNode(tx, r.node); err != nil {
				return err
			}
		}
	}
	for _, id := range u.GoneGroups {
		if err := dropNode(tx, b.groups[id]); err != nil {
			return err
		}
		delete(b.groups, id)
	}
	if tx.Node(b.node) == nil {
		return nil // it is being deleted: gone is on its way
	}
	for _, g := range u.Groups {
		id := graph.GenID(b.env.Host, b.name, "ofgroup", strconv.FormatUint(uint64(g.ID), 10))
		b.groups[g.ID] = id
		if err := b.putNode(tx, id, groupMetadata(g)); err != nil {
			return err
		}
	}
	for _, r := range u.Rules {
		if err := b.putRule(tx, r, now); err != nil {
			return err
		}
	}
	return nil
}

func (b *flowBridge) putRule(tx *graph.Tx, r *openflow.Rule, now time.Time) error {
	key := r.Key()
	shown := b.rules[key]
	if shown != nil && shown.cookie != r.Cookie { // another rule in its place
		if err := dropNode(tx, shown.node); err != nil {
			return err
		}
		shown = nil
	}
	if shown == nil {
		shown = &shownRule{node: b.ruleID(r), cookie: r.Cookie}
		if tx.Node(shown.node) != nil { // two matches that read alike
			shown.node = graph.GenID(shown.node, hex.EncodeToString([]byte(r.Match)))
		}
		b.rules[key] = shown
	}
	shown.count(r, now)
	return b.putNode(tx, shown.node, shown.metadata(r))
}

func (b *flowBridge) ruleID(r *openflow.Rule) string {
	return graph.GenID(b.env.Host, b.name, "ofrule", strconv.Itoa(int(r.Table)), strconv.Itoa(int(r.Priority)), r.Match.String(),
		cookieText(r.Cookie))
}

// putNode adds a node below the bridge, or changes it.
func (b *flowBridge) putNode(tx *graph.Tx, id string, m field.Object) error {
	n := tx.Node(id)
	if n == nil {
		added := b.env.NewNode(m)
		added.ID = id
		return b.env.AddChild(tx, b.node, added)
	}
	if tid := n.Metadata.Text("TID"); tid != "" {
		m, _ = m.Set("TID", tid) // cannot fail: the path has one step
	}
	_, err := tx.SetNodeMetadata(id, m)
	return err
}

// withdraw takes all out of the graph.
func (b *flowBridge) withdraw() error {
	var u openflow.Update
	for key := range b.rules {
		u.GoneRules = append(u.GoneRules, key)
	}
	for id := range b.groups {
		u.GoneGroups = append(u.GoneGroups, id)
	}
	return b.publish(u)
}

// count takes in the counters.
func (s *shownRule) count(r *openflow.Rule, now time.Time) {
	if s.read && r.Packets == s.packets && r.Bytes == s.bytes || !s.read && r.Packets|r.Bytes == 0 {
		if s.at.IsZero() {
			s.at = now
		}
		return
	}
	if !s.at.IsZero() {
		packets, bytes := r.Packets-s.packets, r.Bytes-s.bytes
		if r.Packets < s.packets || r.Bytes < s.bytes { // they started from zero
			packets, bytes = r.Packets, r.Bytes
		}
		s.grew = metric(packets, bytes, "Start", s.at.UnixMilli(), "Last", now.UnixMilli())
	}
	s.read, s.packets, s.bytes, s.at = true, r.Packets, r.Bytes, now
	s.metric = metric(r.Packets, r.Bytes, "Last", now.UnixMilli())
}

func metric(packets, bytes uint64, times ...any) field.Object {
	return field.Make(append(times, "RxPackets", int64(packets), "RxBytes", int64(bytes))...)
}

func cookieText(cookie uint64) string { return "0x" + strconv.FormatUint(cookie, 16) }

func (s *shownRule) metadata(r *openflow.Rule) field.Object {
	name := fmt.Sprintf("table=%d,priority=%d", r.Table, r.Priority)
	if match := r.Match.String(); match != "" {
		name += "," + match
	}
	pairs := []any{
		"Type", "ofrule", "Name", name, "Cookie", cookieText(r.Cookie), "Table", int64(r.Table), "Priority", int64(r.Priority),
		"IdleTimeout", int64(r.IdleTimeout), "HardTimeout", int64(r.HardTimeout), "Importance", int64(r.Importance),
		"Flags", int64(r.Flags), "Filters", filters(r.Match),
	}
	pairs = append(pairs, instructions(r.Instructions)...)
	if s.metric != nil {
		pairs = append(pairs, "Metric", s.metric)
	}
	if s.grew != nil {
		pairs = append(pairs, "LastUpdateMetric", s.grew)
	}
	return field.Make(pairs...)
}

func filters(m openflow.Match) field.List {
	fields := m.Fields()
	list := make(field.List, len(fields))
	for i, f := range fields {
		if f.Mask != "" {
			list[i] = field.Make("Type", f.Name, "Value", f.Value, "Mask", f.Mask)
		} else {
			list[i] = field.Make("Type", f.Name, "Value", f.Value)
		}
	}
	return list
}

// instructions are the keys that tell what a rule does. One that does nothing drops.
func instructions(in openflow.Instructions) (pairs []any) {
	applied := field.List{}
	all := in.Decode()
	for _, i := range all {
		switch i.Type {
		case "apply_actions":
			applied = append(applied, actions(i.Actions)...)
		case "write_actions":
			pairs = append(pairs, "WriteActions", actions(i.Actions))
		case "goto_table":
			pairs = append(pairs, "GotoTable", i.Arguments[0].Value)
		case "meter":
			pairs = append(pairs, "Meter", i.Arguments[0].Value)
		case "clear_actions":
			pairs = append(pairs, "ClearActions", true)
		case "write_metadata":
			pairs = append(pairs, "WriteMetadata", arguments(i.Arguments))
		default:
			applied = append(applied, field.Make("Type", i.Type, "Arguments", arguments(i.Arguments)))
		}
	}
	if len(applied) == 0 && len(pairs) == 0 {
		applied = field.List{field.Make("Type", "drop")}
	}
	return append(pairs, "Actions", applied)
}

func actions(all []openflow.Action) field.List {
	list := make(field.List, len(all))
	for i, a := range all {
		if len(a.Arguments) == 0 {
			list[i] = field.Make("Type", a.Type)
		} else {
			list[i] = field.Make("Type", a.Type, "Arguments", arguments(a.Arguments))
		}
	}
	return list
}

func arguments(all []openflow.Argument) field.Object {
	pairs := make([]any, 0, 2*len(all))
	for _, a := range all {
		value := a.Value
		if inner, ok := value.([]openflow.Action); ok {
			value = actions(inner)
		}
		pairs = append(pairs, a.Name, value)
	}
	return field.Make(pairs...)
}

func groupMetadata(g *openflow.Group) field.Object {
	buckets := make(field.List, len(g.Buckets))
	for i, k := range g.Buckets {
		pairs := []any{"Id", int64(k.ID), "Len", int64(k.Len), "Weight", int64(k.Weight), "Actions", actions(k.Actions)}
		if k.WatchPort != nil {
			pairs = append(pairs, "WatchPort", k.WatchPort)
		}
		if k.WatchGroup != nil {
			pairs = append(pairs, "WatchGroup", k.WatchGroup)
		}
		buckets[i] = field.Make(pairs...)
	}
	m := field.Make("Type", "ofgroup", "Name", fmt.Sprintf("group_id=%d", g.ID), "GroupId", int64(g.ID), "GroupType", g.Type,
		"Buckets", buckets)
	if g.Selection != "" {
		m, _ = m.Set("Meta", field.List{"selection_method=" + g.Selection}) // cannot fail: the path has one step
	}
	return m
}
