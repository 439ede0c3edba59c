package auth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_model/go"
	"golang.org/x/crypto/bcrypt"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func authenticator(t testing.TB, name string, cfg Config, o Options) *Authenticator {
	t.Helper()
	if o.Log == nil {
		o.Log = quiet()
	}
	a, err := New(name, cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

func request(header, value string) *http.Request {
	r := httptest.NewRequest("GET", "/api", nil)
	if header != "" {
		r.Header.Set(header, value)
	}
	return r
}

func TestWhereCredentialsAreFound(t *testing.T) {
	a := authenticator(t, "mine", Config{Type: "basic", Users: map[string]string{"Bob": "se:cret", "eve": "x"}, Role: "guest"}, Options{})
	good, bad := basic("Bob", "se:cret"), basic("Bob", "wrong")
	for _, c := range []struct {
		name string
		r    *http.Request
		want error
	}{
		{"none", request("", ""), ErrNoCredentials},
		{"basic", request("Authorization", "Basic "+good), nil},
		{"basic, lower case", request("Authorization", "basic "+good), nil},
		{"bearer", request("Authorization", "Bearer "+good), nil},
		{"bare", request("Authorization", good), nil},
		{"header", request("X-Auth-Token", good), nil},
		{"cookie", request("Cookie", "authtoken="+good), nil},
		{"cookie without padding", request("Cookie", "authtoken="+strings.TrimRight(good, "=")), nil},
		{"query", httptest.NewRequest("GET", "/x?x-auth-token="+good, nil), nil},
		{"wrong", request("Authorization", "Basic "+bad), ErrWrong},
		{"no base64", request("Authorization", "Basic !!"), ErrWrong},
		{"no colon", request("X-Auth-Token", base64.StdEncoding.EncodeToString([]byte("Bob"))), ErrWrong},
		{"no user", request("X-Auth-Token", basic("", "se:cret")), ErrWrong},
		{"unknown user, empty password", request("X-Auth-Token", basic("mallory", "")), ErrWrong},
		{"case of the name", request("X-Auth-Token", basic("bob", "se:cret")), ErrWrong},
		{"prefix", request("X-Auth-Token", basic("Bob", "se:cre")), ErrWrong},
	} {
		user, err := a.Authenticate(c.r)
		if err != c.want || (err == nil) != (user == "Bob") {
			t.Errorf("%s: %q %v, want %v", c.name, user, err, c.want)
		}
	}
	first := request("Cookie", "authtoken="+bad) // the first that is there counts
	first.Header.Set("X-Auth-Token", good)
	if _, err := a.Authenticate(first); err != ErrWrong {
		t.Error(err)
	}
}

func TestDefaultRoleEachTime(t *testing.T) {
	var granted []string
	grant := func(user, role string) { granted = append(granted, user+"="+role) }
	a := authenticator(t, "basic", Config{Users: map[string]string{"bob": "x"}, Role: "guest"}, Options{Grant: grant})
	for range 2 {
		if _, err := a.Authenticate(request("X-Auth-Token", basic("bob", "x"))); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = a.Authenticate(request("X-Auth-Token", basic("bob", "wrong")))
	cluster := authenticator(t, "basic", Config{Users: map[string]string{"bob": "x"}, Role: "guest"}, Options{Grant: grant, Role: "admin"})
	if _, _, err := cluster.Login(request("", ""), "bob", "x"); err != nil {
		t.Fatal(err)
	}
	open := authenticator(t, "noauth", Config{Role: "guest"}, Options{Grant: grant})
	if user, err := open.Authenticate(request("", "")); user != "admin" || err != nil || !open.Open() {
		t.Error(user, err)
	}
	if got := strings.Join(granted, " "); got != "bob=guest bob=guest bob=admin admin=guest" {
		t.Error(got)
	}
}

func TestLogin(t *testing.T) {
	a := authenticator(t, "basic", Config{Users: map[string]string{"bob": "x"}}, Options{})
	if name, token, err := a.Login(request("", ""), "bob", "x"); err != nil || name != "bob" || token != basic("bob", "x") {
		t.Error(name, token, err)
	}
	if err := a.Logout(request("Cookie", "authtoken="+basic("bob", "x"))); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		user, password string
		want           error
	}{{"bob", "y", ErrWrong}, {"bob", "", ErrNoCredentials}, {"", "x", ErrNoCredentials}, {"bib", "x", ErrWrong}} {
		if _, token, err := a.Login(request("", ""), c.user, c.password); err != c.want || token != "" {
			t.Errorf("%+v: %q %v", c, token, err)
		}
	}
	open := authenticator(t, "noauth", Config{}, Options{})
	if name, token, err := open.Login(request("", ""), "any", "body"); err != nil || name != "admin" || token != "" {
		t.Error(name, token, err)
	}
	if _, _, err := open.Login(request("", ""), "any", ""); err != ErrNoCredentials {
		t.Error(err)
	}
}

func TestNewFailsClosed(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"x", Config{}, "Authentication type unknown or backend not defined for: x"},
		{"x", Config{Type: "ldap"}, "Authentication type unknown"},
		{"keystone", Config{}, "Authentication type unknown or backend not defined for: keystone"},
		{"x", Config{Type: "Keystone", Users: map[string]string{"bob": "x"}, Role: "admin"}, "backend not defined for: x"},
		{"x", Config{Type: "basic"}, "No htpassword provider set"},
		{"x", Config{Type: "basic", File: "/does/not/exist"}, "/does/not/exist"},
		{"x", Config{Type: "basic", File: "/does/not/exist", Users: map[string]string{"a": "b"}}, "/does/not/exist"},
		{"x", Config{Type: "basic", Users: map[string]string{"a": ""}}, "password"},
		{"x", Config{Type: "basic", Users: map[string]string{"": "a"}}, "name"},
	} {
		if _, err := New(c.name, c.cfg, Options{Log: quiet()}); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "auth."+c.name+": ") {
			t.Errorf("%+v: %v", c.cfg, err)
		}
	}
}

// Hashes made by openssl passwd -apr1 and -1, by sha1sum, and by bcrypt in the versions that htpasswd and PHP write.
func TestHashes(t *testing.T) {
	cost4, err := bcrypt.GenerateFromPassword([]byte("password"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	long := "a much longer password than sixteen bytes"
	for hash, password := range map[string]string{
		"$apr1$abcdefgh$G8IsPsylW5ROvIKsQMRG61": "a",
		"$1$abcdefgh$jUYc1Xi7pkozuzWQ0Dft71":    "a",
		"$apr1$xy$.lxC8wf/tCocZ14cbZ9g1.":       "password",
		"$1$xy$GSi9DZ/itmn9/ge6aijPn/":          "password",
		"$apr1$abcdefgh$Eqv4oIyMsS.tjfvQCJYY1/": long,
		"$1$xy$uSQQR8b.qYEbmdUZ57w90.":          long,
		"{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=":     "password",
		string(cost4):                           "password",
		"$2y$" + string(cost4[4:]):              "password",
	} {
		if !known(hash) || !matches(hash, password) || matches(hash, password+"x") || matches(hash, "") {
			t.Error(hash)
		}
	}
	for _, hash := range []string{"", "plain", "$5$salt$x", "{SSHA}x", "$2y$tooshort"} {
		if known(hash) || matches(hash, hash) {
			t.Errorf("%q taken", hash)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	next := name + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, name); err != nil {
		t.Fatal(err)
	}
}

func TestHtpasswdFollowsTheFile(t *testing.T) {
	const sha = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=" // password
	name := filepath.Join(t.TempDir(), "htpasswd")
	write(t, name, "# users\n\nalice:"+sha+"\nalice:{SHA}other\ncarl:crypted\nbob:"+sha+":Bob the builder\nnonsense\n:"+sha+"\n")
	var log bytes.Buffer
	a := authenticator(t, "basic", Config{File: name, Users: map[string]string{"inline": "x"}}, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	try := func(user, password string) bool {
		_, err := a.Authenticate(request("X-Auth-Token", basic(user, password)))
		return err == nil
	}
	if !try("alice", "password") || !try("bob", "password") || try("carl", "crypted") || try("inline", "x") || try("nobody", "password") {
		t.Error("first reading")
	}
	if strings.Count(log.String(), "ignored") != 3 || strings.Contains(log.String(), "crypted\"") {
		t.Error(log.String())
	}
	if !try("alice", "password") {
		t.Error("proven")
	}
	write(t, name, "carl:"+sha+"\n")
	if try("alice", "password") || !try("carl", "password") {
		t.Error("a removed user may in, or a new one may not")
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if try("carl", "password") || try("nobody", "") {
		t.Error("in without a file")
	}
	if strings.Count(log.String(), "nobody can log in") != 1 {
		t.Error(log.String())
	}
	write(t, name, "carl:"+sha+"\n")
	if !try("carl", "password") {
		t.Error("not read again")
	}
}

func TestFailuresAreLimited(t *testing.T) {
	now := time.Unix(1000, 0)
	reg := prometheus.NewRegistry()
	a := authenticator(t, "basic", Config{Users: map[string]string{"bob": "x", "eve": "y"}}, Options{Clock: func() time.Time { return now }, Registerer: reg})
	// A second backend shares the metric.
	authenticator(t, "cluster", Config{Type: "basic", Users: map[string]string{"bob": "x"}}, Options{Registerer: reg})
	try := func(remote, user, password string) error {
		r := request("X-Auth-Token", basic(user, password))
		r.RemoteAddr = remote
		_, err := a.Authenticate(r)
		return err
	}
	for range 100 {
		if err := try("10.0.0.1:1", "bob", "x"); err != nil {
			t.Fatal(err)
		}
	}
	for i := range failBurst {
		if err := try(fmt.Sprintf("10.0.0.1:%d", i+1), "bob", fmt.Sprint("guess", i)); err != ErrWrong {
			t.Fatal(i, err)
		}
	}
	if err := try("10.0.0.1:9", "eve", "y"); err != ErrTooMany {
		t.Error("right after too many wrong:", err)
	}
	if err := try("10.0.0.1:9", "bob", "x"); err != nil {
		t.Error("known before:", err)
	}
	if err := try("10.0.0.2:9", "eve", "y"); err != nil {
		t.Error("another remote:", err)
	}
	now = now.Add(failRefill)
	if err := try("10.0.0.1:9", "bob", "another"); err != ErrWrong {
		t.Error(err)
	}
	if err := try("10.0.0.1:9", "bob", "yet another"); err != ErrTooMany {
		t.Error(err)
	}
	if err := try("10.0.0.1:9", "bob", "another"); err != ErrWrong {
		t.Error("the same again uses up attempts:", err)
	}
	var e *Error
	if !errors.As(ErrTooMany, &e) || e.Status() != http.StatusTooManyRequests || ErrWrong.Status() != http.StatusUnauthorized {
		t.Error(e)
	}
	var counted io_prometheus_client.Metric
	if err := a.failures.Write(&counted); err != nil || counted.GetCounter().GetValue() != failBurst+4 {
		t.Error(&counted, err)
	}
	now = now.Add(rightFor + time.Second)
	if len(a.remotes.all) == 0 || try("10.0.0.1:9", "bob", "x") != nil {
		t.Error("proven for ever, or not again")
	}
}

func TestLimiterStaysBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newLimiter(func() time.Time { return now }, failBurst)
	for i := range maxLimiters + 500 {
		l.take(fmt.Sprint(i))
	}
	if n := len(l.all); n > maxLimiters+1 {
		t.Error(n)
	}
	now = now.Add(time.Hour)
	l.take("another")
	if n := len(l.all); n != 1 {
		t.Error(n)
	}
	for in, want := range map[string]string{"10.0.0.1:80": "10.0.0.1", "[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64", "[fe80::1%eth0]:1": "fe80::/64", "[::ffff:1.2.3.4]:1": "::ffff:1.2.3.4", "@": "@"} {
		if got := remoteOf(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestRightStaysBounded(t *testing.T) {
	users := map[string]string{}
	for i := range maxRight + 50 {
		users[fmt.Sprint("u", i)] = "x"
	}
	a := authenticator(t, "basic", Config{Users: users}, Options{})
	for user := range users {
		if _, err := a.Authenticate(request("X-Auth-Token", basic(user, "x"))); err != nil {
			t.Fatal(err)
		}
	}
	if len(a.right) != maxRight {
		t.Error(len(a.right))
	}
}

func TestConcurrentUse(t *testing.T) {
	name := filepath.Join(t.TempDir(), "htpasswd")
	hash, err := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, "bob:"+string(hash)+"\n")
	a := authenticator(t, "basic", Config{File: name}, Options{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := a.Authenticate(request("X-Auth-Token", basic("bob", "x"))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzAuthenticate(f *testing.F) {
	f.Add("Basic "+basic("bob", "y"), "a=b; authtoken=x", "x-auth-token=%2B")
	a := authenticator(f, "basic", Config{Users: map[string]string{"bob": "x"}}, Options{})
	f.Fuzz(func(t *testing.T, authorization, cookie, query string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Authorization"], r.Header["Cookie"], r.URL.RawQuery = []string{authorization}, []string{cookie}, query
		if user, err := a.Authenticate(r); err == nil {
			if text, _ := credentials(r); user != "bob" || text == "" {
				t.Fatal(user)
			}
		}
	})
}

func FuzzHtpasswd(f *testing.F) {
	f.Add("a:$apr1$x$y\nb:{SHA}z\n:\n#\n", "p")
	f.Add("a:$1$$\nb:$2y$04$", "")
	f.Fuzz(func(t *testing.T, file, password string) {
		name := filepath.Join(t.TempDir(), "htpasswd")
		write(t, name, file)
		h, err := newHtpasswd(name, quiet())
		if err != nil {
			return
		}
		for user := range h.hashes {
			h.check(user, password)
		}
		if h.check("nobody of this name", password) {
			t.Fatal("in")
		}
	})
}
