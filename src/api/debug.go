package api

import (
	"errors"
	"net/http"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"strings"
	"time"
)

// profileTime is how long a profile takes unless told otherwise, and at most.
const (
	profileTime    = 30 * time.Second
	maxProfileTime = 5 * time.Minute
)

// mountDebug serves profiles for go tool pprof and go tool trace, to who may read the object debug. The command line is not among them:
// it may hold what only this host should know.
func (s *Server) mountDebug() {
	s.handle("GET /debug/pprof/{$}", s.guarded("debug", "read", s.profiles))
	s.handle("GET /debug/pprof/{name}", s.guarded("debug", "read", s.profile))
}

// profiles lists what there is.
func (s *Server) profiles(w http.ResponseWriter, r *http.Request) error {
	if err := s.local(r); err != nil {
		return err
	}
	list := map[string]int{"profile": 1, "trace": 1}
	for _, p := range pprof.Profiles() {
		list[p.Name()] = p.Count()
	}
	return writeJSON(w, list)
}

// profile writes one: those that last end with the request.
func (s *Server) profile(w http.ResponseWriter, r *http.Request) error {
	if err := s.local(r); err != nil {
		return err
	}
	name, lasts := r.PathValue("name"), profileTime
	if text := r.URL.Query().Get("seconds"); text != "" {
		n, err := strconv.Atoi(text)
		if lasts = time.Duration(n) * time.Second; err != nil || n < 1 || lasts > maxProfileTime {
			return failf(http.StatusBadRequest, "seconds=%q is not between 1 and %d", text, int(maxProfileTime.Seconds()))
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	var err error
	switch kept := pprof.Lookup(name); {
	case name == "profile":
		if err = pprof.StartCPUProfile(w); err == nil {
			rest(r, lasts)
			pprof.StopCPUProfile()
		}
	case name == "trace":
		if err = trace.Start(w); err == nil {
			rest(r, lasts)
			trace.Stop()
		}
	case kept != nil:
		debug, _ := strconv.Atoi(r.URL.Query().Get("debug"))
		if debug > 0 {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		}
		return kept.WriteTo(w, debug)
	default:
		return failf(http.StatusNotFound, "there is no profile '%s'", name)
	}
	if err != nil { // one at a time
		return &failure{http.StatusConflict, errors.New(strings.TrimSpace(err.Error()))}
	}
	return nil
}

func rest(r *http.Request, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
	}
}
