package netlink

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/netns"
)

// namespace is what is known of one network namespace.
type namespace struct {
	info    netns.Namespace
	primary string  // path of the name that is shown, while it exists
	sock    *socket // nil: not followed
	trouble error   // why it is not
	dead    bool

	links  map[int]*link // by index
	routes map[routeKey][]hop
	hops   int // in routes

	// Numbers of other namespaces as seen from this one (struct net.netns_ids of the kernel).
	nsids map[int32]*namespace
	asked map[*namespace]bool // those whose number was asked for
	asks  map[uint32]*namespace

	dumps
	nextStats time.Time
	nextAudit time.Time

	node      string       // owner of the interfaces in the graph
	published field.Object // metadata of node; nil before it is in the graph, and of the host
	todo      bool
}

func newNamespace(info netns.Namespace) *namespace {
	return &namespace{
		info:   info,
		node:   graph.NewID(),
		links:  make(map[int]*link),
		routes: make(map[routeKey][]hop),
		nsids:  make(map[int32]*namespace),
		asked:  make(map[*namespace]bool),
		asks:   make(map[uint32]*namespace),
	}
}

// setInfo takes in new names and processes; it tells whether any matter to the graph.
func (ns *namespace) setInfo(info netns.Namespace) bool {
	if ns.info.Equal(info) {
		return false
	}
	old := ns.metadata()
	ns.info = info
	return !field.Equal(old, ns.metadata())
}

// shown is the name that the node has: the same one as long as it exists.
func (ns *namespace) shown() (name, path string) {
	if len(ns.info.Names) == 0 {
		ns.primary = ""
		return ns.info.Command + "-" + strconv.Itoa(ns.info.PID), ns.info.Path()
	}
	i := slices.IndexFunc(ns.info.Names, func(n netns.Name) bool { return n.Path == ns.primary })
	if i < 0 {
		i, ns.primary = 0, ns.info.Names[0].Path
	}
	return ns.info.Names[i].Name, ns.info.Names[i].Path
}

func (ns *namespace) name() string {
	name, _ := ns.shown()
	return name
}

func (ns *namespace) metadata() field.Object {
	name, path := ns.shown()
	o := field.Make("Type", "netns", "Name", name, "Path", path, "Inode", ns.info.ID.Inode, "Device", ns.info.ID.Device)
	if len(ns.info.Names) > 1 {
		names := make(field.List, len(ns.info.Names))
		for i, n := range ns.info.Names {
			names[i] = n.Name
		}
		o, _ = o.Set("Names", names) // cannot fail: the path has one step
	}
	return o
}

// link is what is known of one interface.
type link struct {
	ns        *namespace
	info      linkInfo
	seen      uint32 // generation, see dumps
	addresses addresses
	neighbors map[neighborKey]neighbor
	routes    map[routeKey]struct{}
	hardware  hardware
	counters  counters
	master    place // what it is enslaved to, or zero
	other     place // its parent or peer, as far as the namespace is known
	unpaired  bool  // it named no peer, and was asked once more

	node      string // in the graph
	published field.Object
	edges     []string
	todo      parts
	later     parts // not urgent: at the next heartbeat
	rereads   uint8 // tables to read again, by bit
	// Rendered lists, until what they show changes.
	routing, arp, fdb field.List
}

// parts tell what of an interface is to be put into the graph.
type parts uint8

const (
	partPlain    parts = 1 << iota // what needs no reading or rendering of its own
	partDriver                     // the name of the driver
	partHardware                   // speed and features, as the driver tells them
	partRoutes
	partNeighbors
	partFDB
	partEdges
)

// maxEntries limits the routes, and the neighbours, of an interface: a graph is no place for a full Internet table.
const maxEntries = 4096

// manyEntries is from where on lists are rendered at heartbeats only.
const manyEntries = 256

// forget drops what was known of a namespace that is gone.
func (ns *namespace) forget(other *namespace) {
	delete(ns.asked, other)
	maps.DeleteFunc(ns.nsids, func(_ int32, x *namespace) bool { return x == other })
	maps.DeleteFunc(ns.asks, func(_ uint32, x *namespace) bool { return x == other })
}
