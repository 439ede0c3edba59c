package api

import (
	"encoding/json"
	"io"
	"net/http"
)

const jsonType = "application/json; charset=UTF-8"

// writeJSON answers 200 with v and a newline.
func writeJSON(w http.ResponseWriter, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", jsonType)
	_, err = w.Write(append(data, '\n'))
	return err
}

func (s *Server) about(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, struct{ Host, Version, Service string }{s.Host, s.Version, s.Service})
}

// status puts together what the parts of the service tell. Warnings is ours; public clients ignore keys that they do not know.
func (s *Server) status(w http.ResponseWriter, _ *http.Request) error {
	all := map[string]any{"Warnings": s.warnings()}
	for key, of := range s.Status {
		all[key] = of()
	}
	return writeJSON(w, all)
}

// well answers 200 when all checks pass, else 503 and why. Nobody is asked for credentials: those who watch services have none.
func well(checks ...func() error) handler {
	return func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Cache-Control", "no-store")
		for _, check := range checks {
			if check == nil {
				continue
			}
			if err := check(); err != nil {
				return failf(http.StatusServiceUnavailable, "%w", err)
			}
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, err := io.WriteString(w, "ok\n")
		return err
	}
}

// setting shows one key of the configuration; one that is not set is "".
func (s *Server) setting(w http.ResponseWriter, r *http.Request) error {
	v, ok := s.Config(r.PathValue("key"))
	if !ok {
		v = ""
	}
	return writeJSON(w, v)
}
