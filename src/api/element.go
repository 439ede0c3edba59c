package api

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/resource"
)

// source labels what the API changes in the graph.
const source = "api"

// refused gives errors of the graph their status.
func refused(err error) error {
	var known *failure
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case errors.Is(err, graph.ErrNotFound):
		return errMissing
	}
	return badRequest(err)
}

// adopt fills in what a producer through the API leaves open, and what it has no say in.
func (s *Server) adopt(e *graph.Element) {
	if e.Origin == "" {
		e.Origin = "api." + s.Host
	}
	e.DeletedAt = 0
}

// patchMetadata applies a patch to an element, of which only the metadata can be changed.
func patchMetadata(document []byte, p patch) (patched, metadata field.Object, err error) {
	doc, err := field.ParseJSON(document)
	if err != nil {
		return nil, nil, err
	}
	if doc, err = p.apply(doc); err != nil {
		return nil, nil, failf(http.StatusBadRequest, "applying JSON patch to resource: %w", err)
	}
	patched, ok := doc.(field.Object)
	if !ok {
		return nil, nil, failf(http.StatusBadRequest, "the patched element is not an object")
	}
	switch m, _ := patched.Get("Metadata"); m := m.(type) {
	case nil:
		return patched, field.Object{}, nil
	case field.Object:
		return patched, m, nil
	}
	return nil, nil, failf(http.StatusBadRequest, "Metadata must be an object")
}

// byID yields elements with their identifiers.
func byID[T any](list iter.Seq[T], id func(T) string) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		for e := range list {
			if !yield(id(e), e) {
				return
			}
		}
	}
}

// nodes is the collection of the nodes of the graph.
type nodes struct{ s *Server }

func (c nodes) list(ctx context.Context, w http.ResponseWriter) error {
	out := newStream(ctx, w)
	all := c.s.Graph.Snapshot().Nodes(field.Filter{})
	writeMap(out, byID(all, func(n *graph.Node) string { return n.ID }), (*graph.Node).AppendJSON)
	return out.end()
}

func (c nodes) get(_ context.Context, id string) ([]byte, error) {
	if n := c.s.Graph.Snapshot().Node(id); n != nil {
		return n.AppendJSON(nil), nil
	}
	return nil, errMissing
}

func (c nodes) create(_ context.Context, data []byte, _ bool, _ string) ([]byte, error) {
	n := new(graph.Node)
	if err := n.UnmarshalJSON(data); err != nil {
		return nil, badRequest(err)
	}
	if err := resource.CheckNode(n.Metadata.Get); err != nil {
		return nil, badRequest(err)
	}
	c.s.adopt(&n.Element)
	if err := c.s.Graph.Update(source, func(tx *graph.Tx) error { return tx.AddNode(n) }); err != nil {
		return nil, refused(err)
	}
	if now := c.s.Graph.Snapshot().Node(n.ID); now != nil {
		n = now // with what hooks added
	}
	return n.AppendJSON(nil), nil
}

func (c nodes) update(_ context.Context, id string, p patch) (data []byte, changed bool, err error) {
	err = c.s.Graph.Update(source, func(tx *graph.Tx) error {
		old := tx.Node(id)
		if old == nil {
			return errMissing
		}
		_, m, err := patchMetadata(old.AppendJSON(nil), p)
		if err != nil {
			return err
		}
		for _, key := range []string{"TID", "Name", "Type"} { // who the node is
			m = m.Delete(key)
			if v, ok := old.Metadata.Get(key); ok {
				if m, err = m.Set(key, v); err != nil {
					return err
				}
			}
		}
		if changed, err = tx.SetNodeMetadata(id, m); err == nil {
			data = tx.Node(id).AppendJSON(nil)
		}
		return err
	})
	return data, changed, refusedPatch(err)
}

func (c nodes) delete(_ context.Context, id string) error {
	return refused(c.s.Graph.Update(source, func(tx *graph.Tx) error { return tx.DeleteNode(id, 0) }))
}

// edges is the collection of the edges of the graph.
type edges struct{ s *Server }

func (c edges) list(ctx context.Context, w http.ResponseWriter) error {
	out := newStream(ctx, w)
	all := c.s.Graph.Snapshot().Edges(field.Filter{})
	writeMap(out, byID(all, func(e *graph.Edge) string { return e.ID }), (*graph.Edge).AppendJSON)
	return out.end()
}

func (c edges) get(_ context.Context, id string) ([]byte, error) {
	if e := c.s.Graph.Snapshot().Edge(id); e != nil {
		return e.AppendJSON(nil), nil
	}
	return nil, errMissing
}

func (c edges) create(_ context.Context, data []byte, _ bool, _ string) ([]byte, error) {
	e := new(graph.Edge)
	if err := e.UnmarshalJSON(data); err != nil {
		return nil, badRequest(err)
	}
	if err := resource.CheckEdge(e.Metadata.Get); err != nil {
		return nil, badRequest(err)
	}
	c.s.adopt(&e.Element)
	if err := c.s.Graph.Update(source, func(tx *graph.Tx) error { return tx.AddEdge(e) }); err != nil {
		return nil, refused(err)
	}
	if now := c.s.Graph.Snapshot().Edge(e.ID); now != nil {
		e = now
	}
	return e.AppendJSON(nil), nil
}

func (c edges) update(_ context.Context, id string, p patch) (data []byte, changed bool, err error) {
	err = c.s.Graph.Update(source, func(tx *graph.Tx) error {
		old := tx.Edge(id)
		if old == nil {
			return errMissing
		}
		patched, m, err := patchMetadata(old.AppendJSON(nil), p)
		if err != nil {
			return err
		}
		if patched.Text("Parent") != old.Parent || patched.Text("Child") != old.Child {
			return errors.New("Parent and Child fields can not be changed")
		}
		if err := resource.CheckEdge(m.Get); err != nil {
			return err
		}
		if changed, err = tx.SetEdgeMetadata(id, m); err == nil {
			data = tx.Edge(id).AppendJSON(nil)
		}
		return err
	})
	return data, changed, refusedPatch(err)
}

func (c edges) delete(_ context.Context, id string) error {
	return refused(c.s.Graph.Update(source, func(tx *graph.Tx) error { return tx.DeleteEdge(id, 0) }))
}

func refusedPatch(err error) error {
	if err == errMissing {
		return err
	}
	var known *failure
	if err != nil && !errors.As(err, &known) {
		err = fmt.Errorf("validating patched resource: %w", err)
	}
	return refused(err)
}
