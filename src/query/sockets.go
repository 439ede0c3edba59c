package query

import (
	"skydive/src/field"
)

// nodeSockets leaves out nodes without sockets.
func nodeSockets(r *run, in Result) (Result, error) {
	var out Sockets
	seen := make(map[string]struct{})
	for _, n := range in.(Nodes) {
		if !r.ok() {
			break
		}
		if _, dup := seen[n.ID]; dup {
			continue
		}
		v, _ := n.Metadata.Get("Sockets")
		l, _ := v.(field.List)
		if found := objects(l); len(found) > 0 {
			seen[n.ID] = struct{}{}
			out = append(out, SocketList{n.ID, found})
			r.hold(len(found))
		}
	}
	return out, nil
}

// objects returns the items of a list that are objects.
func objects(v field.Value) (found []field.Object) {
	l, _ := v.(field.List)
	for _, item := range l {
		if o, ok := item.(field.Object); ok {
			found = append(found, o)
		}
	}
	return found
}

func filterSockets(f filter) applier {
	return func(r *run, in Result) (Result, error) {
		var out Sockets
		for _, l := range in.(Sockets) {
			if kept := pick(r, l.Sockets, f, everything); len(kept) > 0 {
				out = append(out, SocketList{l.ID, kept})
			}
		}
		return out, nil
	}
}

// socketValues refuses a field that a socket lacks.
func socketValues(key string) applier {
	return func(r *run, in Result) (Result, error) {
		c := collect[field.Value](r, everything)
		for _, l := range in.(Sockets) {
			for _, s := range l.Sockets {
				v, ok := s.Lookup(key)
				if !ok {
					return nil, usage("Field not found: %s", key)
				}
				if !c.add(v) {
					return nil, r.err
				}
			}
		}
		return Values(c.out), nil
	}
}
