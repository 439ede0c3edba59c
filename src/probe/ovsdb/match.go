package ovsdb

import (
	"slices"
	"strings"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe"
)

// How sure it is that a node of the probe netlink is an interface of the database.
const (
	none = iota
	byNameOnly
	byMACOnly
	byNameAndIndex
	byNameAndMAC
	byIndexAndMAC
	byAll
)

// find returns the node that shows an interface in the kernel, "" when there is none, or several that are as likely.
func (v *view) find(tx *graph.Tx, i *iface) string {
	if i.class() == noDevice {
		return ""
	}
	best, found, several := none, "", false
	consider := func(n *graph.Node) {
		s := v.score(tx.View, i, n)
		switch {
		case s == none || n.ID == found:
		case s > best:
			best, found, several = s, n.ID, false
		case s == best:
			several = true
		}
	}
	if n := tx.Node(i.node); n != nil && !i.ours {
		consider(n)
	}
	for n := range tx.Nodes(having("Name", i.name)) {
		consider(n)
	}
	if i.moved() { // and perhaps renamed where it is
		for _, mac := range i.macs() {
			for n := range tx.Nodes(having("MAC", mac)) {
				consider(n)
			}
		}
	}
	if several {
		return ""
	}
	if best == byAll && !i.moved() {
		v.home = ownerOf(tx.View, found)
	}
	return found
}

func having(key, value string) field.Filter {
	return field.Filter{Terms: []field.Term{{Key: key, Pred: field.Eq{V: value}}}}
}

// moved tells that an internal interface is not in the namespace of ovs-vswitchd any more: it has the index 0 then. It has none at all
// before ovs-vswitchd has looked at it.
func (i *iface) moved() bool {
	index, known := i.row.Int("ifindex")
	return i.class() == internal && known && index == 0
}

func (v *view) score(g graph.View, i *iface, n *graph.Node) int {
	index, ok := n.Metadata.Int("IfIndex")
	if _, own := v.own[n.ID]; !ok || own || n.Origin != v.env.Origin {
		return none
	}
	if other := v.taken[n.ID]; other != nil && other != i {
		return none
	}
	mac := n.Metadata.Text("MAC")
	sameName := n.Metadata.Text("Name") == i.name
	sameIndex := index == i.index
	sameMAC := mac != "" && slices.Contains(i.macs(), mac)
	owner := ownerOf(g, n.ID)
	inRoot := owner == v.env.Root
	atHome := owner == v.home || v.home == "" && inRoot
	switch {
	case !i.moved():
		// It is in the namespace of ovs-vswitchd. Others may have the same names and indexes: only the address tells, until that
		// namespace is known. An address may change.
		switch {
		case !sameName && i.node == n.ID && i.class() == internal && sameMAC && sameIndex:
			return byNameAndIndex // renamed: ovs-vswitchd will lose sight of it
		case !sameName:
			return none
		case i.index == 0: // ovs-vswitchd does not run
			if atHome && !time.Now().Before(i.wait) {
				return byNameOnly
			}
			return none
		case !sameIndex:
			return none
		case sameMAC:
			return byAll
		case i.node == n.ID || owner == v.home || i.mac == "" && atHome:
			return byNameAndIndex
		}
		return none
	case !drivenByOVS(n) || atHome && !(sameMAC && sameIndex):
		return none
	case sameMAC && sameIndex && sameName:
		return byAll
	case sameMAC && sameIndex:
		return byIndexAndMAC
	case sameMAC && sameName:
		return byNameAndMAC
	case sameName && sameIndex:
		return byNameAndIndex
	case sameMAC && i.index == 0 && !v.namesake(i, n.Metadata.Text("Name"), mac):
		return byMACOnly
	case sameName && len(i.macs()) == 0:
		return byNameOnly
	}
	return none
}

// namesake tells whether another interface has that name and that address, and so the better claim.
func (v *view) namesake(i *iface, name, mac string) bool {
	for _, other := range v.interfaces {
		if other != i && other.name == name && slices.Contains(other.macs(), mac) {
			return true
		}
	}
	return false
}

// macs are the addresses that an interface is known to have or to have had.
func (i *iface) macs() []string {
	var all []string
	for _, mac := range [...]string{i.mac, i.row.Text("mac"), i.row.MapText("external_ids", "attached-mac")} {
		if mac != "" {
			all = append(all, strings.ToLower(mac))
		}
	}
	return all
}

// drivenByOVS tells whether an interface may be one that Open vSwitch made: with its kernel module, or with the userspace datapath.
func drivenByOVS(n *graph.Node) bool {
	driver := n.Metadata.Text("Driver")
	return driver == "openvswitch" || driver == "tun"
}

func ownerOf(g graph.View, id string) string {
	for e := range g.In(id) {
		if relation, _ := e.Metadata.Get(probe.RelationType); relation == probe.Ownership {
			return e.Parent
		}
	}
	return ""
}

// observe looks at what others changed in the graph.
func (v *view) observe(c *graph.Commit) {
	for _, change := range c.Changes {
		n := change.Node
		if n == nil || n.Origin != v.env.Origin {
			continue
		}
		if _, own := v.own[n.ID]; own {
			continue
		}
		if change.Kind == graph.NodeUpdated && !matters(change.OldNode.Metadata, n.Metadata) {
			continue
		}
		v.observeNode(n, change.Kind == graph.NodeDeleted)
	}
}

func (v *view) observeNode(n *graph.Node, deleted bool) {
	if n.ID == v.env.Root || n.Metadata.Text("Name") == systemName {
		v.dirtySystem = true
		v.flushIn(coalesce)
	}
	if i := v.taken[n.ID]; i != nil {
		v.dirty[i] = struct{}{}
		v.flushIn(coalesce)
	}
	if _, ok := n.Metadata.Int("IfIndex"); !ok || deleted {
		return
	}
	name, mac := n.Metadata.Text("Name"), n.Metadata.Text("MAC")
	if i := v.byName[name]; i != nil && v.isLost(i) {
		v.dirty[i] = struct{}{}
		v.flushIn(coalesce)
	}
	if mac == "" || !drivenByOVS(n) {
		return
	}
	for i := range v.lost {
		if slices.Contains(i.macs(), mac) {
			v.dirty[i] = struct{}{}
			v.flushIn(coalesce)
		}
	}
}

func (v *view) isLost(i *iface) bool { _, lost := v.lost[i]; return lost }

// identity is what tells nodes of the kernel apart, and what this probe says that others may take away.
var identity = [...]string{"Name", "IfIndex", "MAC", "Type", "Driver", "UUID"}

func matters(old, now field.Object) bool {
	for _, key := range identity {
		before, _ := old.Get(key)
		after, _ := now.Get(key)
		if !field.Equal(before, after) {
			return true
		}
	}
	return false
}

// lookAgain looks at everything, after changes of the graph were missed.
func (v *view) lookAgain() {
	for _, i := range v.interfaces {
		v.dirty[i] = struct{}{}
	}
	v.dirtySystem = true
	v.flushIn(coalesce)
}
