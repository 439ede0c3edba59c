package query

import (
	"net/netip"

	"skydive/src/field"
	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/gremlin"
)

// flowNodes finds the nodes that flows name: by the TID of the captured node, and by the MAC addresses of the ends, which an interface
// has itself or sees behind it. The first node of the graph that passes f is taken.
func flowNodes(side gremlin.Kind, f filter, p page) applier {
	tid := side == gremlin.Nodes || side == gremlin.Hops || side == gremlin.CaptureNode
	a := side == gremlin.In || side == gremlin.Both || side == gremlin.Nodes
	b := side == gremlin.Out || side == gremlin.Both || side == gremlin.Nodes
	return func(r *run, in Result) (Result, error) {
		if err := r.arrive(); err != nil {
			return nil, err
		}
		byTID, byMAC := make(map[string]*graph.Node), make(map[string]*graph.Node)
		for _, f := range in.(Flows) {
			if tid {
				byTID[f.NodeTID] = nil
			}
			if f.Link != nil && a {
				byMAC[f.Link.A] = nil
			}
			if f.Link != nil && b {
				byMAC[f.Link.B] = nil
			}
			if !r.hold(1) {
				return nil, r.err
			}
		}
		find := func(wanted map[string]*graph.Node, n *graph.Node, key string) {
			if len(wanted) == 0 {
				return
			}
			text := n.Metadata.Text(key)
			if first, ok := wanted[text]; ok && first == nil && text != "" {
				wanted[text] = n
			}
		}
		for n := range r.world.Nodes(f.on(r)) {
			find(byTID, n, "TID")
			find(byMAC, n, "MAC")
			find(byMAC, n, "PeerIntfMAC")
			if !r.ok() {
				return nil, r.err
			}
		}
		c := collect[*graph.Node](r, p)
		add := func(n *graph.Node) bool { return n == nil && r.ok() || n != nil && c.add(n) }
		for _, f := range in.(Flows) {
			if tid && !add(byTID[f.NodeTID]) {
				break
			}
			if f.Link != nil && (a && !add(byMAC[f.Link.A]) || b && !add(byMAC[f.Link.B])) {
				break
			}
		}
		return Nodes(c.out), nil
	}
}

// tuple is how a socket and a flow know each other.
type tuple struct {
	protocol      flow.Protocol
	local, remote netip.AddrPort
}

func (t tuple) reverse() tuple { return tuple{t.protocol, t.remote, t.local} }

// flowSockets finds the sockets at both ends of flows.
func flowSockets(r *run, in Result) (Result, error) {
	if err := r.arrive(); err != nil {
		return nil, err
	}
	wanted := make(map[tuple][]field.Object)
	for _, f := range in.(Flows) {
		if t, ok := flowTuple(f); ok {
			wanted[t], wanted[t.reverse()] = nil, nil
			r.hold(2)
		}
		if !r.ok() {
			return nil, r.err
		}
	}
	if len(wanted) == 0 {
		return Sockets(nil), nil
	}
	seen := make(map[string]struct{}) // by node and socket: a node may come in several states
	var buf []byte
	for n := range r.world.Nodes(field.Filter{}) {
		all, _ := n.Metadata.Get("Sockets")
		for _, o := range objects(all) {
			if !r.ok() {
				return nil, r.err
			}
			t, ok := socketTuple(o)
			if !ok {
				continue
			}
			found, ok := wanted[t]
			if !ok {
				continue
			}
			buf = field.AppendJSON(append(append(buf[:0], n.ID...), 0), o)
			if _, dup := seen[string(buf)]; !dup {
				seen[string(buf)] = struct{}{}
				wanted[t] = append(found, o)
				r.hold(1 + len(buf)/bytesPerElement)
			}
		}
	}
	var out Sockets
	done := make(map[string]struct{})
	for _, f := range in.(Flows) {
		t, ok := flowTuple(f)
		if _, dup := done[f.UUID]; dup || !ok {
			continue
		}
		list := wanted[t]
		if t != t.reverse() {
			list = append(list[:len(list):len(list)], wanted[t.reverse()]...)
		}
		if len(list) > 0 {
			done[f.UUID] = struct{}{}
			out = append(out, SocketList{f.UUID, list})
		}
		if !r.hold(len(list)) {
			return nil, r.err
		}
	}
	return out, nil
}

func flowTuple(f *flow.Flow) (tuple, bool) {
	if f.Network == nil || f.Transport == nil || f.Transport.Protocol != flow.TCP && f.Transport.Protocol != flow.UDP {
		return tuple{}, false
	}
	a, ok1 := endpoint(f.Network.A, f.Transport.A)
	b, ok2 := endpoint(f.Network.B, f.Transport.B)
	return tuple{f.Transport.Protocol, a, b}, ok1 && ok2
}

func socketTuple(o field.Object) (tuple, bool) {
	var p flow.Protocol
	switch o.Text("Protocol") {
	case "TCP":
		p = flow.TCP
	case "UDP":
		p = flow.UDP
	default:
		return tuple{}, false
	}
	from, _ := o.Int("LocalPort")
	to, _ := o.Int("RemotePort")
	local, ok1 := endpoint(o.Text("LocalAddress"), from)
	remote, ok2 := endpoint(o.Text("RemoteAddress"), to)
	return tuple{p, local, remote}, ok1 && ok2
}

func endpoint(address string, port int64) (netip.AddrPort, bool) {
	ip, err := netip.ParseAddr(address)
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), err == nil && port >= 0 && port <= 65535
}
