package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"skydive/src/resource"
)

// collection is where objects of one kind are. Its errors carry their status, or mean that it cannot be used now.
type collection interface {
	// list writes a JSON object of all by their identifiers.
	list(ctx context.Context, w http.ResponseWriter) error
	// get returns the JSON of one; errMissing when there is none.
	get(ctx context.Context, id string) ([]byte, error)
	// create returns the JSON of what it made.
	create(ctx context.Context, data []byte, yaml bool, ttl string) ([]byte, error)
	// update returns the JSON after a patch; changed is false when there is nothing to tell.
	update(ctx context.Context, id string, p patch) (data []byte, changed bool, err error)
	delete(ctx context.Context, id string) error
}

// mountResources serves everything that can be created, listed, shown, patched and deleted, all in the same way.
func (s *Server) mountResources() {
	s.mountCollection("node", nodes{s})
	s.mountCollection("edge", edges{s})
	for _, kind := range resource.Kinds() {
		s.mountCollection(kind.Name, &stored{
			s: s, kind: kind, engine: slices.Contains(s.Engines, kind.Name), view: s.Views[kind.Name], check: s.Checks[kind.Name],
		})
	}
	s.handle("POST /api/workflow/{id}/call", s.guarded("workflow.call", "write", s.callWorkflow))
}

func (s *Server) mountCollection(name string, c collection) {
	path := "/api/" + name
	s.handle("GET "+path, s.guarded(name, "read", func(w http.ResponseWriter, r *http.Request) error {
		return c.list(r.Context(), w)
	}))
	s.handle("POST "+path, s.guarded(name, "write", func(w http.ResponseWriter, r *http.Request) error {
		data, err := body(r)
		if err != nil {
			return err
		}
		made, err := c.create(r.Context(), data, r.Header.Get("Content-Type") == "application/yaml", r.Header.Get("X-Resource-TTL"))
		if err != nil {
			return err
		}
		return send(w, http.StatusCreated, made)
	}))
	s.handle("GET "+path+"/{id...}", s.guarded(name, "read", withID(name, func(w http.ResponseWriter, r *http.Request, id string) error {
		data, err := c.get(r.Context(), id)
		if err != nil {
			return err
		}
		return send(w, http.StatusOK, append(data, '\n'))
	})))
	s.handle("PATCH "+path+"/{id...}", s.guarded(name, "write", withID(name, func(w http.ResponseWriter, r *http.Request, id string) error {
		text, err := body(r)
		if err != nil {
			return err
		}
		if _, err := c.get(r.Context(), id); err != nil { // what does not exist comes before what is wrong with the patch
			return err
		}
		p, err := parsePatch(text)
		if err != nil {
			return failf(http.StatusBadRequest, "incorrect JSON patch: %w", err)
		}
		data, changed, err := c.update(r.Context(), id, p)
		if err != nil {
			return err
		}
		if !changed {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
		return send(w, http.StatusOK, data)
	})))
	s.handle("DELETE "+path+"/{id...}", s.guarded(name, "write", withID(name, func(w http.ResponseWriter, r *http.Request, id string) error {
		if err := c.delete(r.Context(), id); err != nil {
			return err
		}
		w.Header().Set("Content-Type", "text/plain")
		return nil
	})))
}

func send(w http.ResponseWriter, status int, data []byte) error {
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(status)
	_, err := w.Write(data)
	return err
}

// withID takes the identifier from the path, and words the error when there is nothing of it.
func withID(name string, next func(w http.ResponseWriter, r *http.Request, id string) error) handler {
	title := strings.ToUpper(name[:1]) + name[1:]
	return func(w http.ResponseWriter, r *http.Request) error {
		id := r.PathValue("id")
		if id == "" {
			return failf(http.StatusBadRequest, "Bad Request")
		}
		err := next(w, r, id)
		if err == errMissing {
			return failf(http.StatusNotFound, "%s '%s' not found", title, id)
		}
		return err
	}
}

func badRequest(err error) error { return &failure{http.StatusBadRequest, err} }

// parseTTL reads the time to live of a new resource; none is for ever.
func parseTTL(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%s is not above 0", d)
	}
	if err != nil {
		return 0, failf(http.StatusBadRequest, "invalid ttl: %w", err)
	}
	return d, nil
}
