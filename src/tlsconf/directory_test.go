package tlsconf

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const year = 365 * 24 * time.Hour

func hosts(t testing.TB, args ...string) (list []Host) {
	t.Helper()
	for _, arg := range args {
		h, err := ParseHost(arg)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, h)
	}
	return list
}

// ofHost are the files of a service on that host.
func ofHost(dir, host string) Files {
	in := func(file string) string { return filepath.Join(dir, host, file) }
	return Files{CACert: in(CACertFile), ServerCert: in(ServerCertFile), ServerKey: in(ServerKeyFile), ClientCert: in(ClientCertFile), ClientKey: in(ClientKeyFile)}
}

func leafOf(t testing.TB, file string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := parseCertificates(data)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		all[strings.TrimPrefix(name, dir+"/")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestParseHost(t *testing.T) {
	long := strings.Repeat("a", 63)
	for arg, want := range map[string]string{
		"a1":                            "a1",
		"A1.Example.org":                "A1.Example.org",
		"a_1":                           "a_1",
		"10.0.0.1":                      "10.0.0.1",
		"fe80::1=h":                     "fe80::1 h",
		"a1=10.0.0.1,*.example.org,::1": "a1 10.0.0.1 *.example.org ::1",
		long + "." + long:               long + "." + long,
	} {
		h, err := ParseHost(arg)
		if got := strings.Join(append([]string{h.Name}, h.Names...), " "); err != nil || got != want {
			t.Errorf("%s: %s, %v", arg, got, err)
		}
	}
	for _, arg := range []string{"", "=10.0.0.1", "..", ".", "../a", "/etc", "a/b", "a1=", "a1=10.0.0.1,", "a1=b c", "-a", "a-", "a..b", "a.", "*.example.org", "*", "a1=*", "a:8082", "ü", "a\n", long + "a", strings.Repeat("a.", 127)} {
		if h, err := ParseHost(arg); err == nil {
			t.Errorf("%q: %+v", arg, h)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, seed := range []string{"a1", "a1=10.0.0.1,b.example.org", "fe80::1", "../x", "a=*.b"} {
		f.Add(seed)
	}
	a := authority(f)
	f.Fuzz(func(t *testing.T, arg string) {
		h, err := ParseHost(arg)
		if err != nil {
			return
		}
		if filepath.Base(h.Name) != h.Name || strings.HasPrefix(h.Name, ".") {
			t.Fatalf("%q would be written elsewhere", h.Name)
		}
		cert, key, err := a.Issue(h, true, time.Now(), year)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := parseCertificates(cert)
		if err != nil {
			t.Fatal(err)
		}
		if private, err := parseKey(key); err != nil || !belongs(private, certs[0]) {
			t.Fatal(err)
		}
		for _, name := range append([]string{h.Name, "localhost", "127.0.0.1", "::1"}, h.Names...) {
			name = strings.Replace(name, "*", "any", 1)
			if err := certs[0].VerifyHostname(name); err != nil {
				t.Errorf("%q: %v", arg, err)
			}
		}
	})
}

func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "pki")
	now := time.Now()
	o := InitOptions{Dir: dir, Hosts: hosts(t, "a1=a1.example.org,10.0.0.1", "agent1"), Life: year, Now: now}
	made, err := Init(o)
	if err != nil || len(made) != 3 {
		t.Fatalf("%+v %v", made, err)
	}
	for i, want := range []string{CACertFile, "a1", "agent1"} {
		if m := made[i]; m.Action != "made" || m.What != filepath.Join(dir, want) || m.Until.Before(now) {
			t.Errorf("%+v", m)
		}
	}

	// Who may read what.
	files := contents(t, dir)
	if len(files) != 2+2*5 {
		t.Errorf("%q", files)
	}
	for file := range files {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		want := fs.FileMode(0o644)
		if strings.HasSuffix(file, ".key") {
			want = 0o600
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s: %v", file, info.Mode())
		}
	}
	for _, d := range []string{dir, filepath.Join(dir, "a1")} {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v %v", d, info, err)
		}
	}

	// What is in it.
	ca := leafOf(t, filepath.Join(dir, CACertFile))
	if !ca.IsCA || !ca.MaxPathLenZero || ca.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || ca.NotAfter.Sub(now) < 9*year || len(ca.SubjectKeyId) == 0 {
		t.Errorf("%+v", ca)
	}
	server, client := leafOf(t, ofHost(dir, "a1").ServerCert), leafOf(t, ofHost(dir, "a1").ClientCert)
	for c, usage := range map[*x509.Certificate]string{server: "serverAuth, clientAuth", client: "clientAuth"} {
		key, ok := c.PublicKey.(*ecdsa.PublicKey)
		if c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature || usages(c) != usage || !ok || key.Curve != elliptic.P256() || c.Subject.CommonName != "a1" || c.SerialNumber.BitLen() < 64 ||
			strings.Join(Names(c), " ") != "a1 a1.example.org localhost 10.0.0.1 127.0.0.1 ::1" || c.NotAfter.Sub(now.Add(year)).Abs() > time.Minute || c.NotBefore.After(now.Add(-50*time.Minute)) {
			t.Errorf("%s: %+v", usage, c)
		}
	}

	// They work: each is known to the other by its names, and by no other.
	a1, agent1 := mustNew(t, ofHost(dir, "a1")), mustNew(t, ofHost(dir, "agent1"))
	if w := append(status(a1).Warnings, status(agent1).Warnings...); len(w) > 0 {
		t.Errorf("%q", w)
	}
	s := serve(t, a1.Server())
	for _, name := range []string{"a1", "a1.example.org", "10.0.0.1", "127.0.0.1"} {
		if _, err := s.call(t, agent1.Client(), name); err != nil || !(<-s.seen).verified {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"agent1", "10.0.0.2"} {
		if _, err := s.call(t, agent1.Client(), name); err == nil {
			t.Errorf("a1 passes for %s", name)
		}
		<-s.seen
	}
	openssl(t, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", filepath.Join(dir, CACertFile), ofHost(dir, "a1").ServerCert)
	openssl(t, "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", filepath.Join(dir, CACertFile), ofHost(dir, "a1").ClientCert)

	// Once more, with a new host and another address: what is there stays.
	o.Hosts = hosts(t, "a1=10.0.0.9", "b1")
	made, err = Init(o)
	if err != nil || made[0].Action != "kept" || made[1].Action != "kept" || made[1].Note != "it lacks 10.0.0.9: --renew makes them anew" || made[2].Action != "made" {
		t.Errorf("%+v %v", made, err)
	}
	again := contents(t, dir)
	for file, data := range files {
		if again[file] != data {
			t.Errorf("%s was changed", file)
		}
	}
	if len(again) != len(files)+5 {
		t.Errorf("%d files, then %d", len(files), len(again))
	}

	// Renewed, all of them: new keys, the same names and authority. A service takes them as they are.
	before := leafOf(t, ofHost(dir, "a1").ServerCert)
	o.Hosts, o.Renew = nil, true
	made, err = Init(o)
	if err != nil || len(made) != 4 || made[0].Action != "kept" || slices.ContainsFunc(made[1:], func(m Made) bool { return m.Action != "renewed" }) {
		t.Errorf("%+v %v", made, err)
	}
	after := leafOf(t, ofHost(dir, "a1").ServerCert)
	if after.Equal(before) || after.PublicKey.(*ecdsa.PublicKey).Equal(before.PublicKey) || strings.Join(Names(after), " ") != strings.Join(Names(before), " ") {
		t.Errorf("%v", Names(after))
	}
	twice(a1)
	if got := status(a1); got.State != "running" || got.Certificates[1].Fingerprint != describe("", "", after).Fingerprint {
		t.Errorf("%+v", got)
	}
	if _, err := s.call(t, agent1.Client(), "a1"); err != nil {
		t.Error(err)
	}
	// One of them, with other addresses.
	o.Hosts = hosts(t, "a1=10.0.0.9")
	if made, err = Init(o); err != nil || made[1].Note != "a1 localhost 10.0.0.9 127.0.0.1 ::1" {
		t.Errorf("%+v %v", made, err)
	}
}

func TestInitAuthority(t *testing.T) {
	// One of a company, made by openssl.
	company := t.TempDir()
	in := func(file string) string { return filepath.Join(company, file) }
	openssl(t, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "100", "-subj", "/O=Company/CN=Company CA", "-keyout", in("corp.key"), "-out", in("corp.pem"))
	dir := t.TempDir()
	o := InitOptions{Dir: dir, Hosts: hosts(t, "h1"), Life: year, Now: time.Now(), CACert: in("corp.pem"), CAKey: in("corp.key")}
	made, err := Init(o)
	if err != nil || made[0].Action != "kept" || made[0].Note != "certificates end with it, in 99 days" {
		t.Fatalf("%+v %v", made, err)
	}
	if !missing(filepath.Join(dir, CAKeyFile)) {
		t.Error("a key of an authority was made, or copied")
	}
	if made[1].Until.After(made[0].Until) {
		t.Errorf("a certificate outlives its authority: %+v", made)
	}
	openssl(t, "verify", "-CAfile", in("corp.pem"), ofHost(dir, "h1").ServerCert)
	c := mustNew(t, ofHost(dir, "h1"))
	s := serve(t, c.Server())
	if _, err := s.call(t, c.Client(), "h1"); err != nil {
		t.Error(err)
	}

	// The same directory with an authority of its own: the host is kept, and it is said that this does not go together.
	o.CACert, o.CAKey = "", ""
	if made, err = Init(o); err != nil || made[0].Action != "made" || made[1].Action != "kept" || made[1].Note != "another authority signed it: --renew makes them anew" {
		t.Errorf("%+v %v", made, err)
	}
	o.Renew = true
	if _, err = Init(o); err != nil {
		t.Error(err)
	}
	if w := status(mustNew(t, ofHost(dir, "h1"))).Warnings; len(w) > 0 {
		t.Errorf("%q", w)
	}

	leaf, leafKey := ofHost(dir, "h1").ServerCert, ofHost(dir, "h1").ServerKey
	openssl(t, "pkey", "-in", in("corp.key"), "-aes256", "-passout", "pass:secret", "-out", in("locked.key"))
	expired, expiredKey := pair(t, nil, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.NotAfter = true, true, x509.KeyUsageCertSign, time.Now().Add(-time.Hour)
	})
	put(t, in("old.crt"), expired)
	put(t, in("old.key"), expiredKey)
	for _, tc := range []struct{ cert, key, want string }{
		{in("none.crt"), in("corp.key"), in("none.crt") + " does not exist"},
		{in("corp.pem"), in("none.key"), in("none.key") + " does not exist"},
		{in("corp.pem"), leafKey, "the key does not belong to the certificate"},
		{in("corp.pem"), in("locked.key"), "key is encrypted"},
		{leaf, leafKey, "the certificate may not sign others: it is not one of an authority"},
		{in("old.crt"), in("old.key"), "it expired on "},
	} {
		o.CACert, o.CAKey = tc.cert, tc.key
		if _, err := Init(o); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "authority") {
			t.Errorf("got %v, want %s", err, tc.want)
		}
	}
}

func TestInitTrouble(t *testing.T) {
	dir := t.TempDir()
	o := InitOptions{Dir: dir, Hosts: hosts(t, "h1"), Life: year, Now: time.Now()}

	// What a run that was killed left behind is in nobody's way.
	if err := os.Mkdir(filepath.Join(dir, ".new-123"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(o); err != nil {
		t.Fatal(err)
	}
	files := contents(t, dir)

	o.Hosts = nil
	if _, err := Init(o); err == nil || err.Error() != "no host is named" {
		t.Error(err)
	}
	o.Hosts = hosts(t, "h2", "H2")
	if _, err := Init(o); err == nil || !strings.Contains(err.Error(), "H2 is named twice") {
		t.Error(err)
	}
	held, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	o.Hosts = hosts(t, "h3")
	if _, err := Init(o); err == nil || !strings.Contains(err.Error(), "is another run at work there?") {
		t.Error(err)
	}
	held.Close()

	// Half an authority is not replaced by another one.
	key, err := os.ReadFile(filepath.Join(dir, CAKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, CAKeyFile))
	if _, err := Init(o); err == nil || !strings.Contains(err.Error(), CAKeyFile+" does not exist") {
		t.Error(err)
	}
	put(t, filepath.Join(dir, CAKeyFile), key)

	// Nor is what is damaged.
	o.Hosts = hosts(t, "h1")
	put(t, ofHost(dir, "h1").ServerCert, []byte("garbage"))
	if _, err := Init(o); err == nil || !strings.Contains(err.Error(), "is not PEM") || !strings.Contains(err.Error(), "move "+filepath.Join(dir, "h1")+" away") {
		t.Error(err)
	}
	os.Remove(ofHost(dir, "h1").ServerCert)
	if _, err := Init(o); err == nil || !strings.Contains(err.Error(), "server.crt does not exist") {
		t.Error(err)
	}
	put(t, ofHost(dir, "h1").ServerCert, []byte(files["h1/server.crt"]))
	os.Remove(ofHost(dir, "h1").ClientKey)
	if made, err := Init(o); err != nil || made[1].Note != "client.key is missing: --renew makes them anew" {
		t.Errorf("%+v %v", made, err)
	}
	o.Renew = true
	if _, err := Init(o); err != nil {
		t.Error(err)
	}
	mustNew(t, ofHost(dir, "h1"))

	// Time goes by.
	o.Renew = false
	o.Now = time.Now().Add(year - 10*24*time.Hour)
	if made, err := Init(o); err != nil || made[1].Note != "it expires in 9 days: --renew makes them anew" {
		t.Errorf("%+v %v", made, err)
	}
	o.Now = time.Now().Add(2 * year)
	if made, err := Init(o); err != nil || made[1].Note != "it has expired: --renew makes them anew" {
		t.Errorf("%+v %v", made, err)
	}
	o.Now = time.Now().Add(12 * year)
	if _, err := Init(o); err == nil || !strings.Contains(err.Error(), "it expired on ") {
		t.Error(err)
	}
}

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	if _, err := Init(InitOptions{Dir: dir, Hosts: hosts(t, "h1", "h2"), Life: year, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	in := func(file string) string { return filepath.Join(dir, file) }
	put(t, in("garbage"), []byte("garbage"))
	old, _ := pair(t, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })
	put(t, in("old.crt"), old)
	text := func(i Inspection) string { return strings.Join(i.Contents, "\n") + "|" + i.Problem }
	got := Inspect([]string{in("ca.crt"), in("h1/server.crt"), in("h1/server.key"), in("h2/client.key"), in("garbage"), in("old.crt"), in("none"), dir}, time.Now())
	for i, want := range [][]string{
		{"CN=Skydive CA ", "; ECDSA P-256; an authority; ", "\n  signed by itself|"},
		{"CN=h1,O=Skydive; ECDSA P-256; for h1 localhost 127.0.0.1 ::1; serverAuth, clientAuth; ", "ends in 364 days\n  signed by " + in("ca.crt") + "|"},
		{"private key, ECDSA P-256, of " + in("h1/server.crt") + "|"},
		{"private key, ECDSA P-256, of none of these files|"},
		{"|is not PEM"},
		{"CN=h1; ECDSA P-256; ", "\n  signed by itself|expired on "},
		{"|does not exist"},
		{"|is a directory"},
	} {
		for _, part := range want {
			if !strings.Contains(text(got[i]), part) {
				t.Errorf("%s: %q lacks %q", got[i].File, text(got[i]), part)
			}
		}
	}
	if alone := Inspect([]string{in("h1/server.crt")}, time.Now()); !strings.Contains(text(alone[0]), "signed by CN=Skydive CA ") || !strings.Contains(text(alone[0]), ", who is in none of these files|") {
		t.Errorf("%+v", alone)
	}
	if bytes.Contains([]byte(text(got[2])), []byte("BEGIN")) {
		t.Error("a key is shown")
	}
}
