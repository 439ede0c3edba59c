package api

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
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

// login takes a form with username and password, and answers the token for later requests, in the body and as a cookie, together with
// the permissions of the user.
func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	if err := r.ParseForm(); err != nil {
		return failf(http.StatusBadRequest, "read form: %w", err)
	}
	name := r.Form.Get("username")
	token, err := s.Auth.Login(r, name, r.Form.Get("password"))
	if err != nil {
		return withStatus(err, http.StatusUnauthorized)
	}
	if s.Auth.Open() {
		name = "admin" // whatever was given
	}
	permissions := s.RBAC.Permissions(name)
	if token != "" {
		http.SetCookie(w, tokenCookie(r, token))
	}
	http.SetCookie(w, permissionsCookie(r, permissions))
	if origin := r.Header.Get("Origin"); origin != "" {
		// A page elsewhere may keep the cookies; whether the browser sends them from there is SameSite's to say.
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Add("Vary", "Origin")
	}
	w.Header().Set("Access-Control-Allow-Credentials", "true")
	return writeJSON(w, struct {
		Token       string
		Permissions []Permission
	}{token, permissions})
}

// tokenCookie is out of reach of scripts, and of requests that pages of other origins make.
func tokenCookie(r *http.Request, token string) *http.Cookie {
	return &http.Cookie{Name: "authtoken", Value: token, Path: "/", HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteLaxMode}
}

// permissionsCookie is for pages, which show only what the user may do; it grants nothing.
func permissionsCookie(r *http.Request, list []Permission) *http.Cookie {
	text, _ := json.Marshal(list) // plain strings and booleans
	return &http.Cookie{Name: "permissions", Value: base64.StdEncoding.EncodeToString(text), Path: "/", Secure: r.TLS != nil, SameSite: http.SameSiteLaxMode}
}

// SocketAuth returns how a WebSocket endpoint authenticates: as REST does, and its answer carries the permissions of the user.
func SocketAuth(auth Authenticator, rbac Authorizer) func(*http.Request) (user string, cookies []*http.Cookie, err error) {
	return func(r *http.Request) (string, []*http.Cookie, error) {
		user, err := auth.Authenticate(r)
		if err != nil {
			return "", nil, err
		}
		cookies := []*http.Cookie{permissionsCookie(r, rbac.Permissions(user))}
		if c, err := r.Cookie("authtoken"); err == nil && strings.TrimSpace(c.Value) != "" {
			cookies = append(cookies, tokenCookie(r, c.Value))
		}
		return user, cookies, nil
	}
}
