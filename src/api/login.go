package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
)

// maxLogin bounds the form of a login: a name, and a password or a token.
const maxLogin = 64 << 10

func (s *Server) mountLogin() {
	s.handle("POST /login", s.login)
	s.mux.Handle("/login", http.RedirectHandler("/", http.StatusFound))
	s.handle("POST /logout", s.logout)
	if s.Tickets != nil {
		s.handle("POST /api/ticket", s.forUser("", "", s.ticket))
	}
}

// login takes a form with username and password, and answers the token for later requests, in the body and as a cookie, together with
// the permissions of the user.
func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxLogin) // who sends it is not known yet, and all of it is held in memory
	if err := r.ParseForm(); err != nil {
		return failf(http.StatusBadRequest, "read form: %w", err)
	}
	name, token, err := s.Auth.Login(r, r.Form.Get("username"), r.Form.Get("password"))
	if err != nil {
		return withStatus(err, http.StatusUnauthorized)
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
	w.Header().Set("Cache-Control", "no-store")
	return writeJSON(w, struct {
		Token       string
		Permissions []Permission
	}{token, permissions})
}

// logout takes the cookies back, and the token out of use where it can be. The browser forgets it in any case.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) error {
	if err := s.Auth.Logout(r); err != nil {
		s.Log.Warn("a token could not be taken out of use at logout", "error", err)
	}
	for _, c := range []*http.Cookie{tokenCookie(r, ""), permissionsCookie(r, nil)} {
		c.Value, c.MaxAge = "", -1
		http.SetCookie(w, c)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// tokenCookie is out of reach of scripts, and of requests that pages of other origins make.
func tokenCookie(r *http.Request, token string) *http.Cookie {
	return &http.Cookie{Name: "authtoken", Value: token, Path: "/", HttpOnly: true, Secure: secure(r), SameSite: http.SameSiteLaxMode}
}

// maxCookie is what browsers keep.
const maxCookie = 4000

// permissionsCookie is for pages, which show only what the user may do; it grants nothing. A list that is too long comes with the login only.
func permissionsCookie(r *http.Request, list []Permission) *http.Cookie {
	text, _ := json.Marshal(list) // plain strings and booleans
	value := base64.StdEncoding.EncodeToString(text)
	if len(value) > maxCookie {
		return &http.Cookie{} // without a name it is not sent
	}
	return &http.Cookie{Name: "permissions", Value: value, Path: "/", Secure: secure(r), SameSite: http.SameSiteLaxMode}
}

// secure tells whether the browser speaks TLS, with us or with a proxy before us. One who lies about it harms no cookies but one's own.
func secure(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// SocketAuth returns how a WebSocket endpoint of agents and analyzers authenticates: as REST does, and its answer carries the permissions of
// the user. Pages in a browser are none of these: when nobody is asked for credentials, they could reach what only the browser can.
func SocketAuth(auth Authenticator, rbac Authorizer) func(*http.Request) (user string, cookies []*http.Cookie, err error) {
	authenticate := (*Tickets)(nil).SocketAuth(auth, rbac)
	return func(r *http.Request) (string, []*http.Cookie, error) {
		if r.Header.Get("Origin") != "" {
			return "", nil, failf(http.StatusForbidden, "pages in a browser are no agents or analyzers")
		}
		return authenticate(r)
	}
}
