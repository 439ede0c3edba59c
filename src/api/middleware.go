package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"skydive/src/gremlin"
	"skydive/src/query"
)

// failure is an error with the status that it is answered with.
type failure struct {
	status int
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Status() int   { return f.status }
func (f *failure) Unwrap() error { return f.err }

func failf(status int, format string, a ...any) error {
	return &failure{status, fmt.Errorf(format, a...)}
}

// fail answers with an error. Once something was sent, all that can be done is to cut the answer off, so that it is not taken for whole.
func (s *Server) fail(out *reply, r *http.Request, err error) {
	status := http.StatusInternalServerError
	var known *failure
	var syntax *gremlin.SyntaxError
	var usage *query.Error
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		status = http.StatusRequestEntityTooLarge
	case errors.As(err, &known):
		status = known.status
	case errors.As(err, &syntax):
		status = http.StatusBadRequest
	case errors.As(err, &usage):
		status = http.StatusBadRequest
	case r.Context().Err() != nil:
		panic(http.ErrAbortHandler) // nobody reads the answer
	default:
		s.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if out.started {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
	out.reset()
	if status == http.StatusServiceUnavailable {
		out.Header().Set("Retry-After", "1")
	}
	http.Error(out, err.Error(), status)
}

// recovered keeps faults of the program to the request that met them. Replies turn them into an answer where they still can; what
// comes here is cut off.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				if p != http.ErrAbortHandler {
					s.panicked(r, p)
				}
				panic(http.ErrAbortHandler) // nothing can be said any more: net/http closes the connection, without a word in the log
			}
		}()
		// The connection may have one of an earlier request.
		conn := http.NewResponseController(w)
		_ = conn.SetWriteDeadline(time.Now().Add(stallTimeout))
		if r.Body != nil && r.Body != http.NoBody {
			// What no handler reads is read at the end, so that the connection can be used again. Handlers that read it lift this.
			_ = conn.SetReadDeadline(time.Now().Add(stallTimeout))
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) panicked(r *http.Request, p any) {
	s.metrics.panics.Inc()
	s.Log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
}

// guarded authenticates, then authorises; an empty object needs no right.
func (s *Server) guarded(object, action string, next handler) handler {
	return s.forUser(object, action, func(w http.ResponseWriter, r *http.Request, _ string) error { return next(w, r) })
}

// forUser is guarded for what depends on who calls.
func (s *Server) forUser(object, action string, next func(w http.ResponseWriter, r *http.Request, user string) error) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		user, err := s.Auth.Authenticate(r)
		if err != nil {
			return withStatus(err, http.StatusUnauthorized)
		}
		if object != "" {
			if err := stranger(s.Auth, r); err != nil {
				return err
			}
			if err := s.authorize(user, object, action); err != nil {
				return err
			}
		}
		return next(w, r, user)
	}
}

// What pages of other origins may send. There are no cookies in it: those come with an origin of ours only.
const (
	corsMethods = "GET HEAD POST PUT PATCH DELETE OPTIONS"
	corsHeaders = "Accept Accept-Language Content-Language Origin X-Requested-With Content-Type Authorization X-Auth-Token X-Resource-Ttl"
)

// crossOrigin answers preflights, and lets pages of other origins read answers.
func (s *Server) crossOrigin(next http.Handler) http.Handler {
	methods, headers := strings.Fields(corsMethods), strings.Fields(corsHeaders)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Add("Vary", "Accept-Encoding")
		if r.Header.Get("Origin") != "" {
			h.Set("Access-Control-Allow-Origin", "*")
		}
		if r.Method != http.MethodOptions {
			next.ServeHTTP(w, withoutForeignCookies(r))
			return
		}
		h.Set("Allow", strings.Join(methods, ", "))
		if method := r.Header.Get("Access-Control-Request-Method"); r.Header.Get("Origin") != "" && method != "" {
			if !slices.Contains(methods, method) {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			asked := r.Header.Get("Access-Control-Request-Headers")
			for name := range strings.FieldsFuncSeq(asked, func(c rune) bool { return c == ',' || c == ' ' }) {
				if !slices.Contains(headers, http.CanonicalHeaderKey(name)) {
					w.WriteHeader(http.StatusForbidden)
					return
				}
			}
			if asked != "" {
				h.Set("Access-Control-Allow-Headers", asked)
			}
			h.Set("Access-Control-Allow-Methods", method)
		}
		w.WriteHeader(http.StatusOK)
	})
}

// limited bounds the size of the body and the time in which it must arrive. The time is lifted at its end: the connection is then
// read in the background, to learn that the client went away, and that may last as long as the answer.
func limited(w http.ResponseWriter, r *http.Request) *http.Request {
	if r.Body == nil || r.Body == http.NoBody {
		return r
	}
	conn := http.NewResponseController(w)
	_ = conn.SetReadDeadline(time.Now().Add(stallTimeout)) // only recorders of tests cannot
	r.Body = &timedBody{http.MaxBytesReader(w, r.Body, maxBody), conn}
	return r
}

type timedBody struct {
	io.ReadCloser
	conn *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.conn.SetReadDeadline(time.Time{})
	}
	return n, err
}

// body reads all of it.
func body(r *http.Request) ([]byte, error) {
	data, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	if err != nil && !errors.As(err, &large) && !errors.Is(err, context.Canceled) {
		err = &failure{http.StatusBadRequest, fmt.Errorf("read body: %w", err)}
	}
	return data, err
}
