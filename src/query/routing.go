package query

import (
	"math"
	"net/netip"

	"skydive/src/field"
	"skydive/src/graph"
)

// nextHops looks the address up in the routing tables of each node: the longest prefix of all tables wins, then the lowest
// priority. Nodes without a matching route are left out.
func nextHops(address string) applier {
	to, err := netip.ParseAddr(address)
	return func(r *run, in Result) (Result, error) {
		if err != nil {
			return nil, usage("NextHop parameter have to be a valid IP address")
		}
		var out NextHops
		seen := make(map[string]struct{})
		for _, n := range in.(Nodes) {
			if !r.ok() {
				break
			}
			if _, dup := seen[n.ID]; dup {
				continue
			}
			if hop, ok := Route(n, to.Unmap()); ok {
				seen[n.ID] = struct{}{}
				out = append(out, hop)
				r.hold(1)
			}
		}
		return out, nil
	}
}

// Route is where node n sends what is meant for an address, by its RoutingTables and Neighbors; false when no route matches.
func Route(n *graph.Node, to netip.Addr) (NextHop, bool) {
	tables, _ := n.Metadata.Get("RoutingTables")
	var best field.Object
	bits, priority := -1, int64(math.MaxInt64)
	for _, table := range objects(tables) {
		routes, _ := table.Get("Routes")
		for _, route := range objects(routes) {
			prefix, err := netip.ParsePrefix(route.Text("Prefix"))
			if err != nil || !prefix.Contains(to) || prefix.Bits() < bits {
				continue
			}
			hops, _ := route.Get("NextHops")
			for _, hop := range objects(hops) {
				p, _ := hop.Int("Priority")
				if prefix.Bits() > bits || p < priority {
					best, bits, priority = hop, prefix.Bits(), p
				}
			}
		}
	}
	if bits < 0 {
		return NextHop{}, false
	}
	hop := NextHop{ID: n.ID, IP: best.Text("IP")}
	if hop.IP == "" {
		hop.IP = to.String()
	}
	hop.IfIndex, _ = best.Int("IfIndex")
	neighbours, _ := n.Metadata.Get("Neighbors")
	for _, nb := range objects(neighbours) {
		if nb.Text("IP") == hop.IP {
			hop.MAC = nb.Text("MAC")
			break
		}
	}
	return hop, true
}
