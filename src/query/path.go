package query

import "skydive/src/graph"

// visit is a node reached by a search: how far it is from a target, and which earlier visit is next on the way there.
type visit struct {
	slot graph.Slot
	dist int32
	next int32 // -1 at a target
}

// shortestPaths finds for each source node a path to the nearest node that passes to, over edges in either direction that pass
// via. One breadth-first search from all targets serves every source. Among equally short paths the one is taken whose every
// next node has the smallest ID, so that the answer does not depend on the order of anything.
func shortestPaths(to, via filter) applier {
	return func(r *run, in Result) (Result, error) {
		var visits []visit                   // the queue too: what is not yet expanded is at the end
		at := make([]int32, r.world.Slots()) // by slot: 1 + index of its visit, 0 before
		var sources []graph.Slot
		wanted := make(map[graph.Slot]struct{}) // sources not reached yet
		reach := func(slot graph.Slot, dist, next int32) bool {
			visits = append(visits, visit{slot, dist, next})
			at[slot] = int32(len(visits))
			delete(wanted, slot)
			return r.hold(1)
		}
		for _, n := range in.(Nodes) {
			if slot, ok := r.world.Slot(n.ID); ok {
				sources = append(sources, slot)
				wanted[slot] = struct{}{}
			}
		}
		for n := range r.world.Nodes(to.on(r)) {
			slot, _ := r.world.Slot(n.ID)
			if at[slot] == 0 && !reach(slot, 0, -1) { // it may match in several states
				return nil, r.err
			}
		}
		id := func(visit int32) string { return r.world.At(visits[visit].slot).ID }
		match := via.on(r)
		// The level that reaches the last source is expanded to its end: it may hold a smaller ID.
		level := int32(0)
		for from := int32(0); int(from) < len(visits) && r.err == nil; from++ {
			own := visits[from]
			if own.dist > level {
				level = own.dist
				if len(wanted) == 0 {
					break
				}
			}
			for e, far := range r.world.Around(own.slot) {
				switch i := at[far] - 1; {
				case !match.Match(e):
				case i < 0:
					reach(far, own.dist+1, from)
				case visits[i].dist == own.dist+1 && id(from) < id(visits[i].next):
					visits[i].next = from
				}
				if !r.ok() {
					break
				}
			}
		}
		var found Paths
		for _, slot := range sources {
			i := at[slot] - 1
			if i < 0 {
				continue
			}
			if !r.hold(int(visits[i].dist) + 1) {
				return nil, r.err
			}
			path := make([]*graph.Node, 0, visits[i].dist+1)
			for ; i >= 0; i = visits[i].next {
				path = append(path, r.world.At(visits[i].slot))
			}
			found = append(found, path)
		}
		return found, r.err
	}
}
