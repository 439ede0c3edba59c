package api

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Policy is where the policy is stored that all analyzers share. The error of Get and Delete is fs.ErrNotExist when there is none.
type Policy interface {
	Get(ctx context.Context) (string, error)
	Set(ctx context.Context, csv string) error
	Delete(ctx context.Context) error
}

// Rights explains and tries what an Authorizer decides by.
type Rights interface {
	// Pending is an error as long as it is not known which policy is in force.
	Pending() error
	// Changed is closed when another policy is in force.
	Changed() <-chan struct{}
	// TryPolicy tells what is wrong with a policy, and whether a user might do something under it.
	TryPolicy(csv, user, object, action string) (allowed bool, err error)
}

// policyType is what a policy is sent as.
const policyType = "text/csv; charset=UTF-8"

// policyErrorHeader tells that the stored policy is not in force, and why.
const policyErrorHeader = "X-Skydive-Policy-Error"

// followed is how long a change of the policy waits to be in force here.
const followed = 2 * time.Second

func (s *Server) mountRBAC() {
	if s.Check != nil {
		s.handle("GET /api/rbac/check", s.forUser("", "", s.checkRight))
	}
	if s.Policy != nil && s.Rights != nil {
		s.handle("GET /api/rbac/policy", s.forUser("rbac", "read", s.getPolicy))
		s.handle("PUT /api/rbac/policy", s.forUser("rbac", "write", s.setPolicy))
		s.handle("DELETE /api/rbac/policy", s.forUser("rbac", "write", s.deletePolicy))
	}
}

// authorize tells why a user may not, if so. As long as the policy is not known nobody may, but mend it.
func (s *Server) authorize(user, object, action string) error {
	if s.Rights != nil && object != "rbac" {
		if err := s.Rights.Pending(); err != nil {
			return failf(http.StatusServiceUnavailable, "%w", err)
		}
	}
	if !s.RBAC.Allowed(user, object, action) {
		return failf(http.StatusMethodNotAllowed, "'%s' has no '%s' permission on '%s'", user, action, object)
	}
	return nil
}

// watched is guarded for answers that do not end: they are cut off when the user loses the right.
func (s *Server) watched(object, action string, next handler) handler {
	return s.forUser(object, action, func(w http.ResponseWriter, r *http.Request, user string) error {
		if s.Rights == nil {
			return next(w, r)
		}
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		go func() {
			for {
				changed := s.Rights.Changed()
				if err := s.authorize(user, object, action); err != nil {
					cancel(err)
					return
				}
				select {
				case <-changed:
				case <-ctx.Done():
					return
				}
			}
		}()
		err := next(w, r.WithContext(ctx))
		var refused *failure
		if errors.As(context.Cause(ctx), &refused) {
			return refused
		}
		return err
	})
}

// SocketStill returns how a WebSocket endpoint asks whether who opened a connection would still be known: a user that was removed is not,
// nor a token that expired; who came with a ticket is asked for with the credentials that it was got with. When that cannot be told now
// the answer is yes.
func SocketStill(auth Authenticator) func(*http.Request) bool {
	return func(r *http.Request) bool {
		_, err := auth.Authenticate(r)
		if err == nil {
			return true
		}
		status := http.StatusUnauthorized
		var known interface{ Status() int }
		if errors.As(err, &known) {
			status = known.Status()
		}
		return status != http.StatusUnauthorized
	}
}

// checkRight explains a decision: about others to who may read the policy, about oneself to everybody.
func (s *Server) checkRight(w http.ResponseWriter, r *http.Request, caller string) error {
	ask := r.URL.Query()
	user, object, action := ask.Get("user"), ask.Get("object"), ask.Get("action")
	if user == "" {
		user = caller
	}
	if object == "" || action == "" {
		return failf(http.StatusBadRequest, "object and action are needed, such as ?user=alice&object=capture&action=write")
	}
	if user != caller {
		if err := s.authorize(caller, "rbac", "read"); err != nil {
			return err
		}
	}
	return writeJSON(w, s.Check(user, object, action))
}

func (s *Server) storedPolicy(ctx context.Context) (string, error) {
	text, err := s.Policy.Get(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", failf(http.StatusNotFound, "no policy is stored: the bundled one and rbac.policy of the configuration are in force")
	case err != nil:
		return "", failf(http.StatusServiceUnavailable, "the policy is not available: %w", err)
	}
	return text, nil
}

func (s *Server) getPolicy(w http.ResponseWriter, r *http.Request, user string) error {
	text, err := s.storedPolicy(r.Context())
	if err != nil {
		return err
	}
	if _, err := s.Rights.TryPolicy(text, user, "rbac", "read"); err != nil {
		w.Header().Set(policyErrorHeader, headerText(err.Error()))
	}
	w.Header().Set("Content-Type", policyType)
	w.Header().Set("Cache-Control", "no-store")
	_, err = w.Write([]byte(text))
	return err
}

// headerText keeps what a header may hold.
func headerText(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
}

// setPolicy stores a policy that is right. One that would take the right to change it from who sends it needs force=true.
func (s *Server) setPolicy(w http.ResponseWriter, r *http.Request, user string) error {
	if err := s.local(r); err != nil {
		return err
	}
	data, err := body(r)
	if err != nil {
		return err
	}
	if err := s.tryPolicy(r, string(data), user); err != nil {
		return err
	}
	before, err := s.Policy.Get(r.Context())
	if err == nil && before == string(data) {
		return nil
	}
	return s.changePolicy(r.Context(), func(ctx context.Context) error { return s.Policy.Set(ctx, string(data)) })
}

func (s *Server) tryPolicy(r *http.Request, csv, user string) error {
	may, err := s.Rights.TryPolicy(csv, user, "rbac", "write")
	if err != nil {
		return badRequest(err)
	}
	if force, _ := strconv.ParseBool(r.URL.Query().Get("force")); !may && !force {
		return failf(http.StatusConflict, "'%s' could not change the policy any more (no 'write' permission on 'rbac'): add force=true if that is wanted", user)
	}
	return nil
}

func (s *Server) deletePolicy(w http.ResponseWriter, r *http.Request, user string) error {
	if err := s.local(r); err != nil {
		return err
	}
	if _, err := s.storedPolicy(r.Context()); err != nil {
		return err
	}
	if err := s.tryPolicy(r, "", user); err != nil {
		return err
	}
	return s.changePolicy(r.Context(), s.Policy.Delete)
}

// changePolicy stores a change and gives it a moment to be in force here: who asks next finds it so.
func (s *Server) changePolicy(ctx context.Context, change func(context.Context) error) error {
	changed := s.Rights.Changed()
	if err := change(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failf(http.StatusServiceUnavailable, "the policy cannot be changed: %w", err)
	}
	patience := time.NewTimer(followed)
	defer patience.Stop()
	select {
	case <-changed:
	case <-patience.C:
	case <-ctx.Done():
	}
	return nil
}
