package keystone

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skydive/src/auth"
)

// section is auth.cloud as it is by default, but for the URL.
func section(url string) auth.Config {
	return auth.Config{Type: "keystone", AuthURL: url, TenantName: "admin", DomainName: "Default"}
}

func backend(t testing.TB, cfg auth.Config) auth.TokenBackend {
	t.Helper()
	k, err := New("cloud", cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func status(err error) int {
	var known *auth.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &known):
		return known.Status()
	}
	return -1
}

func TestURLs(t *testing.T) {
	for in, want := range map[string]string{
		"http://h:5000":                  "http://h:5000/v3/",
		"http://h:5000/":                 "http://h:5000/v3/",
		"http://h:5000/v3":               "http://h:5000/v3/",
		"http://h:5000/v2.0/":            "http://h:5000/v3/",
		"https://h/identity/v3/":         "https://h/identity/v3/",
		"https://[2001:db8::1]/identity": "https://[2001:db8::1]/identity/v3/",
		"":                               "Authentication URL empty",
		"h:5000":                         "auth_url: want a URL",
		"ftp://h/":                       "auth_url: want a URL",
		"http://":                        "auth_url: want a URL",
		"http://u:secret@h/":             "auth_url: want a URL",
		"http://h/?a=b":                  "auth_url: want a URL",
		"http://h/%zz":                   "auth_url: want a URL",
	} {
		got, err := endpointOf(in)
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.HasPrefix(got, want) || strings.Contains(got, "secret")) {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestWhatASectionNeeds(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*auth.Config){
		"Authentication URL empty":                   func(c *auth.Config) { c.AuthURL = "" },
		"tenant_name is empty":                       func(c *auth.Config) { c.TenantName = "" },
		"version 2 of Keystone's API":                func(c *auth.Config) { c.DomainName = "" },
		"ca_cert: open /does/not/exist":              func(c *auth.Config) { c.CACert = "/does/not/exist" },
		"ca_cert: " + empty + " holds no PEM certif": func(c *auth.Config) { c.CACert = empty },
	} {
		cfg := section("http://h")
		change(&cfg)
		if _, err := New("cloud", cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// cloud answers as Keystone does, or as something else that is at its address.
type cloud struct {
	status int
	header map[string]string
	body   string
	seen   []string // "POST /v3/auth/tokens?nocatalog <X-Auth-Token> <X-Subject-Token> <body>"
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.seen = append(c.seen, fmt.Sprintf("%s %s %s %s %s", r.Method, r.URL, r.Header.Get("X-Auth-Token"), r.Header.Get("X-Subject-Token"), body))
	w.Header().Set("Content-Type", "application/json")
	for name, value := range c.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(c.status)
	_, _ = io.WriteString(w, c.body)
}

func answer(user, userDomain, project, projectDomain string) string {
	type m = map[string]any
	token := m{"expires_at": "2026-11-23T17:00:00.000000Z", "user": m{"name": user, "id": "1", "domain": m{"name": userDomain}}}
	if project != "" {
		token["project"] = m{"name": project, "domain": m{"name": projectDomain}}
	}
	text, _ := json.Marshal(m{"token": token})
	return string(text)
}

func TestWhatIsAsked(t *testing.T) {
	c := &cloud{status: 201, header: map[string]string{"X-Subject-Token": "tok"}, body: answer("ann", "Default", "admin", "Default")}
	s := httptest.NewServer(c)
	defer s.Close()
	k := backend(t, section(s.URL))
	got, err := k.Login(t.Context(), "ann", `p"w`)
	if want := (auth.Token{ID: "tok", User: "ann", Until: time.Date(2026, 11, 23, 17, 0, 0, 0, time.UTC)}); err != nil || got != want {
		t.Error(got, err)
	}
	c.status = 200
	if got, err = k.Verify(t.Context(), "tok"); err != nil || got.User != "ann" {
		t.Error(got, err)
	}
	c.status, c.body = 204, ""
	if err := k.Revoke(t.Context(), "tok"); err != nil {
		t.Error(err)
	}
	domain := `"domain":{"name":"Default"}`
	want := []string{
		`POST /v3/auth/tokens?nocatalog   {"auth":{"identity":{"methods":["password"],"password":{"user":{` + domain + `,"name":"ann","password":"p\"w"}}},"scope":{"project":{` + domain + `,"name":"admin"}}}}`,
		`GET /v3/auth/tokens?nocatalog tok tok `,
		`DELETE /v3/auth/tokens?nocatalog tok tok `,
	}
	if fmt.Sprint(c.seen) != fmt.Sprint(want) {
		t.Errorf("%q", c.seen)
	}

	// What cannot be a token, a name or a password is never sent.
	c.seen = nil
	for _, token := range []string{"", "a b", "a\nX: y", "\x00", "é", strings.Repeat("x", maxToken+1)} {
		if _, err := k.Verify(t.Context(), token); err != auth.ErrWrong {
			t.Errorf("%.20q: %v", token, err)
		}
		if err := k.Revoke(t.Context(), token); err != nil {
			t.Errorf("%.20q: %v", token, err)
		}
	}
	for _, c := range [][2]string{{strings.Repeat("u", maxName+1), "x"}, {"u", strings.Repeat("x", maxSecret+1)}} {
		if _, err := k.Login(t.Context(), c[0], c[1]); err != auth.ErrWrong {
			t.Error(err)
		}
	}
	if len(c.seen) != 0 {
		t.Error(c.seen)
	}
}

func TestAnswers(t *testing.T) {
	const no = `{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}`
	good := answer("ann", "Default", "admin", "Default")
	for _, c := range []struct {
		name          string
		status        int
		body          string
		login, verify int // status of the error, 0: none
		text          string
	}{
		{"yes", 200, good, 503, 0, ""}, // a login is answered 201, and with a header
		{"no", 401, no, 401, 401, "Keystone: The request you have made requires authentication. ("},
		{"unknown token", 404, strings.ReplaceAll(no, "401", "404"), 503, 401, ""},
		{"forbidden", 403, no, 401, 401, ""},
		{"bad request", 400, no, 401, 401, ""},
		{"another project", 200, answer("ann", "Default", "demo", "Default"), 503, 401, "Tenant mismatch"},
		{"case of the project", 200, answer("ann", "Default", "Admin", "Default"), 503, 401, "Tenant mismatch"},
		{"no project", 200, answer("ann", "Default", "", ""), 503, 401, "Tenant mismatch"},
		{"domain of the project", 200, answer("ann", "Default", "admin", "other"), 503, 401, "Domain mismatch"},
		{"domain of the user", 200, answer("ann", "other", "admin", "Default"), 503, 401, "Domain mismatch"},
		{"nobody", 200, answer("", "Default", "admin", "Default"), 503, 503, "tells no user"},
		{"no end", 200, strings.Replace(good, "expires_at", "x", 1), 503, 503, "tells no user"},
		{"not JSON", 200, "<html>", 503, 503, "cannot be asked"},
		{"a list", 200, "[]", 503, 503, "tells no user"},
		{"null", 200, "null", 503, 503, "tells no user"},
		{"numbers", 200, `{"token":{"user":1,"expires_at":7}}`, 503, 503, "tells no user"},
		{"endless", 200, `{"token":"` + strings.Repeat("x", 2*maxAnswer), 503, 503, "cannot be asked"},
		{"another server", 404, "<html>404</html>", 503, 503, "is auth_url right?"},
		{"another server that asks", 401, "who are you?", 503, 503, "is auth_url right?"},
		{"elsewhere", 302, "", 503, 503, "redirects elsewhere (302 Found): set auth_url"},
		{"elsewhere with all", 307, "", 503, 503, "redirects elsewhere"},
		{"trouble", 500, no, 503, 503, "is in trouble: 500 Internal Server Error"},
		{"too busy", 429, no, 503, 503, "is in trouble: 429 Too Many Requests"},
		{"behind a proxy", 504, "<html>", 503, 503, "is in trouble: 504"},
	} {
		t.Run(c.name, func(t *testing.T) {
			far := &cloud{status: 200, body: good}
			other := httptest.NewServer(far)
			defer other.Close()
			s := httptest.NewServer(&cloud{status: c.status, body: c.body, header: map[string]string{"Location": other.URL + "/v3/auth/tokens"}})
			defer s.Close()
			k := backend(t, section(s.URL))
			_, err := k.Login(t.Context(), "ann", "s3cret")
			if status(err) != c.login || strings.Contains(err.Error(), "s3cret") {
				t.Error("login:", err)
			}
			got, err := k.Verify(t.Context(), "t0ken")
			if status(err) != c.verify || err != nil && (!strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "t0ken")) || (err == nil) != (got.User == "ann") {
				t.Error("verify:", got, err)
			}
			if err := k.Revoke(t.Context(), "t0ken"); status(err) != 0 && status(err) != 503 {
				t.Error("revoke:", err)
			}
			if len(far.seen) != 0 {
				t.Error("a password or a token was sent elsewhere:", far.seen)
			}
		})
	}
}

func TestNoAnswer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := backend(t, section("http://"+l.Addr().String()))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := k.Login(ctx, "ann", "s3cret"); status(err) != 503 || !strings.HasSuffix(err.Error(), "/v3/ cannot be asked: no answer in time") {
		t.Error(err)
	}
	l.Close()
	if _, err := k.Verify(t.Context(), "t0ken"); status(err) != 503 || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "t0ken") {
		t.Error(err)
	}
	if err := k.Revoke(t.Context(), "t0ken"); status(err) != 503 {
		t.Error(err)
	}
}

func TestCertificate(t *testing.T) {
	s := httptest.NewUnstartedServer(&cloud{status: 200, body: answer("ann", "Default", "admin", "Default")})
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it says what the test wants to see
	s.StartTLS()
	defer s.Close()
	cfg := section(s.URL)
	if _, err := backend(t, cfg).Verify(t.Context(), "t"); status(err) != 503 || !strings.Contains(err.Error(), "certificate") {
		t.Error("an unknown authority is trusted:", err)
	}
	cfg.CACert = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(cfg.CACert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := backend(t, cfg).Verify(t.Context(), "t"); err != nil || got.User != "ann" {
		t.Error(got, err)
	}
	cfg.AuthURL = strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	if _, err := backend(t, cfg).Verify(t.Context(), "t"); status(err) != 503 {
		t.Error("the name in the certificate does not count:", err)
	}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// endless is a body that never ends, and counts what is read of it.
type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	e.n += len(p)
	return copy(p, strings.Repeat(" ", len(p))), nil
}
func (*endless) Close() error { return nil }

func TestEndlessAnswer(t *testing.T) {
	for _, code := range []int{200, 201, 204, 401, 500} {
		body := &endless{}
		k := backend(t, section("http://h")).(*Keystone)
		k.client.Transport = brief{transport(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, Header: http.Header{}, Body: body}, nil
		})}
		if _, err := k.Login(t.Context(), "ann", "x"); status(err) != 503 {
			t.Error(code, err)
		}
		if _, err := k.Verify(t.Context(), "tok"); status(err) != 503 {
			t.Error(code, err)
		}
		if err := k.Revoke(t.Context(), "tok"); status(err) != 0 && status(err) != 503 {
			t.Error(code, err)
		}
		if body.n > 3*2*maxAnswer {
			t.Errorf("%d: %d bytes were read", code, body.n)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(201, "tok", answer("ann", "Default", "admin", "Default"))
	f.Add(401, "", `{"error":{"message":"no"}}`)
	f.Add(404, "", `{"error":"no"}`)
	f.Add(200, "", `[]`)
	f.Fuzz(func(t *testing.T, code int, subject, body string) {
		k := backend(t, section("http://h")).(*Keystone)
		k.client.Transport = transport(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, Header: http.Header{"X-Subject-Token": {subject}}, Body: io.NopCloser(strings.NewReader(body))}, nil
		})
		good := func(got auth.Token, err error) {
			switch status(err) {
			case 0:
				if got.ID == "" || got.User == "" || got.Until.IsZero() || code < 200 || code > 203 || !strings.Contains(body, "admin") {
					t.Fatal(got)
				}
			case 401, 503:
			default:
				t.Fatal(err)
			}
		}
		good(k.Login(t.Context(), "ann", "x"))
		good(k.Verify(t.Context(), "tok"))
		if err := k.Revoke(t.Context(), "tok"); status(err) != 0 && status(err) != 503 {
			t.Fatal(err)
		}
	})
}
