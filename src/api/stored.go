package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"skydive/src/field"
	"skydive/src/resource"
)

// stored is a collection of resources in the store.
type stored struct {
	s      *Server
	kind   resource.Kind
	engine bool                                                 // something acts upon new ones
	view   func(r resource.Resource, whole bool) any            // nil: as it is stored
	check  func(ctx context.Context, r resource.Resource) error // nil: whatever is valid can be tried

	creating sync.Mutex // so that two requests at a time cannot make duplicates through this server
}

func (c *stored) key(id string) string { return "/" + c.kind.Name + "/" + id }

// unavailable is every error of the store but a missing key.
func unavailable(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errMissing
	}
	return failf(http.StatusServiceUnavailable, "resources are not available: %w", err)
}

// all returns the resources by identifier; what is in the store but cannot be read is left out.
func (c *stored) all(ctx context.Context) (map[string]resource.Resource, error) {
	values, err := c.s.Store.List(ctx, c.key(""))
	if err != nil {
		return nil, unavailable(err)
	}
	list := make(map[string]resource.Resource, len(values))
	for key, value := range values {
		r, err := c.kind.Decode(value)
		if err != nil {
			c.s.Log.Warn("a stored resource cannot be read", "key", key, "error", err)
			continue
		}
		list[strings.TrimPrefix(key, c.key(""))] = r
	}
	return list, nil
}

func (c *stored) list(ctx context.Context, w http.ResponseWriter) error {
	list, err := c.all(ctx)
	if err != nil {
		return err
	}
	var failed error
	out := newStream(ctx, w)
	ordered := func(yield func(string, resource.Resource) bool) {
		for _, id := range slices.Sorted(maps.Keys(list)) {
			if !yield(id, list[id]) {
				return
			}
		}
	}
	writeMap(out, ordered, func(r resource.Resource, dst []byte) []byte {
		text, err := c.shown(r, false)
		failed = errors.Join(failed, err)
		return append(dst, text...)
	})
	if failed != nil {
		return failed
	}
	return out.end()
}

func (c *stored) read(ctx context.Context, id string) (resource.Resource, int64, error) {
	value, revision, err := c.s.Store.Get(ctx, c.key(id))
	if err != nil {
		return nil, 0, unavailable(err)
	}
	r, err := c.kind.Decode(value)
	if err != nil {
		return nil, 0, fmt.Errorf("read stored %s %s: %w", c.kind.Name, id, err)
	}
	return r, revision, nil
}

func (c *stored) get(ctx context.Context, id string) ([]byte, error) {
	r, _, err := c.read(ctx, id)
	if err != nil {
		return nil, err
	}
	return c.shown(r, true)
}

// shown is the JSON of a resource for clients.
func (c *stored) shown(r resource.Resource, whole bool) ([]byte, error) {
	if c.view != nil {
		return json.Marshal(c.view(r, whole))
	}
	return json.Marshal(r)
}

func (c *stored) create(ctx context.Context, data []byte, yaml bool, ttl string) ([]byte, error) {
	decode := c.kind.Decode
	if yaml {
		decode = c.kind.DecodeYAML
	}
	r, err := decode(data)
	if err != nil {
		return nil, badRequest(err)
	}
	defaults := c.s.Defaults
	defaults.Now = time.Now()
	r.SetDefaults(defaults)
	if err := r.Validate(); err != nil {
		return nil, badRequest(err)
	}
	lives, err := parseTTL(ttl)
	if err != nil {
		return nil, err
	}
	if !c.engine {
		return nil, failf(http.StatusNotImplemented, "the %s is valid, but nothing in this version acts upon it yet", c.kind.Name)
	}
	if c.check != nil {
		if err := c.check(ctx, r); err != nil {
			return nil, badRequest(err)
		}
	}
	c.creating.Lock()
	defer c.creating.Unlock()
	others, err := c.all(ctx)
	if err != nil {
		return nil, err
	}
	for _, other := range others {
		if err := r.Conflict(other); errors.Is(err, resource.ErrDuplicate) {
			return nil, &failure{http.StatusConflict, err}
		} else if err != nil {
			return nil, badRequest(err)
		}
	}
	r.SetID(resource.NewID())
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if err := c.s.Store.Create(ctx, c.key(r.ID()), text, lives); err != nil {
		return nil, unavailable(err)
	}
	return text, nil
}

// update patches what is in the store, again when somebody else was faster. It always tells the result, changed or not.
func (c *stored) update(ctx context.Context, id string, p patch) ([]byte, bool, error) {
	for {
		old, revision, err := c.read(ctx, id)
		if err != nil {
			return nil, false, err
		}
		text, err := c.patched(old, p)
		if err != nil {
			return nil, false, badRequest(err)
		}
		done, err := c.s.Store.Update(ctx, c.key(id), text, revision)
		if err != nil {
			return nil, false, unavailable(err)
		}
		if done {
			return text, true, nil
		}
	}
}

func (c *stored) patched(old resource.Resource, p patch) ([]byte, error) {
	before, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	doc, err := field.ParseJSON(before)
	if err != nil {
		return nil, err
	}
	if doc, err = p.apply(doc); err != nil {
		return nil, fmt.Errorf("applying JSON patch to resource: %w", err)
	}
	if !c.kind.Updatable {
		return nil, errors.New("updating resource with patched version: resource not updatable")
	}
	r, err := c.kind.Decode(field.AppendJSON(nil, doc))
	if err != nil {
		return nil, fmt.Errorf("decoding patched resource: %w", err)
	}
	if r.ID() != old.ID() {
		return nil, errors.New("validating patched resource: UUID can not be changed")
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("validating patched resource: %w", err)
	}
	return json.Marshal(r)
}

func (c *stored) delete(ctx context.Context, id string) error {
	if err := c.s.Store.Delete(ctx, c.key(id)); err != nil {
		return unavailable(err)
	}
	return nil
}

// callWorkflow checks a call; running it comes with the engine.
func (s *Server) callWorkflow(_ http.ResponseWriter, r *http.Request) error {
	data, err := body(r)
	if err != nil {
		return err
	}
	var call struct{ Params []any }
	if err := json.Unmarshal(data, &call); err != nil {
		return badRequest(err)
	}
	id := r.PathValue("id")
	if _, _, err := s.Store.Get(r.Context(), "/workflow/"+id); errors.Is(err, fs.ErrNotExist) {
		return failf(http.StatusNotFound, "No workflow found with ID: %s", id)
	} else if err != nil {
		return unavailable(err)
	}
	return failf(http.StatusNotImplemented, "running workflows comes with a later version")
}
