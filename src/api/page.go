package api

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
)

//go:embed index.html
var indexHTML string

// mountPage serves the page, which needs no login: it shows nothing but what this is.
func (s *Server) mountPage() {
	page := template.Must(template.New("index").Parse(indexHTML))
	show := func(w http.ResponseWriter, r *http.Request) error {
		var text bytes.Buffer
		scheme := "http"
		if r.TLS != nil {
			scheme = "https"
		}
		err := page.Execute(&text, struct {
			Service, Host, Version, URL string
			Warnings                    []string
		}{s.Service, s.Host, s.Version, scheme + "://" + r.Host, s.warnings()})
		if err != nil {
			return err
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=UTF-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		_, err = w.Write(text.Bytes())
		return err
	}
	for _, path := range []string{"/{$}", "/ui/{$}", "/ui/login", "/ui/topology", "/ui/preference", "/ui/status"} {
		s.handle("GET "+path, show)
	}
	moved := http.RedirectHandler("/ui/", http.StatusMovedPermanently)
	s.mux.Handle("GET /ui", moved)
	s.mux.Handle("GET /ui_v2", moved)
	s.mux.Handle("GET /ui_v2/", moved)
}
