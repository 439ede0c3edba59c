package tlsconf

import (
	"context"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// renew gives a pair another certificate of the same authority.
func renew(t *testing.T, a *Authority, certFile, keyFile, name string) {
	t.Helper()
	cert, key := pair(t, a, func(c *x509.Certificate) { c.Subject.CommonName = name })
	put(t, certFile, cert)
	put(t, keyFile, key)
}

// While it runs, a renewed certificate is shown in the next handshake.
func TestRun(t *testing.T) {
	ca := authority(t)
	f := filesIn(t, ca)
	log, logger := newJournal()
	c, err := New(f, logger)
	if err != nil {
		t.Fatal(err)
	}
	c.every = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer done.Wait()
	defer cancel()
	s, client := serve(t, c.Server()), c.Client()
	if cert, err := s.call(t, client, "h1"); err != nil || cert.Subject.CommonName != "h1" {
		t.Fatal(cert, err)
	}
	renew(t, ca, f.ServerCert, f.ServerKey, "renewed")
	log.wait(t, "certificates were renewed")
	if cert, err := s.call(t, client, "h1"); err != nil || cert.Subject.CommonName != "renewed" {
		t.Error(cert, err)
	}
}

// twice looks until changed files are taken, or refused.
func twice(c *Certificates) { c.look(); c.look() }

func TestReload(t *testing.T) {
	ca, other := authority(t), authority(t)
	f := filesIn(t, ca)
	log, logger := newJournal()
	c, err := New(f, logger)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, c.Server())
	held := c.Client()
	shows := func(name, want string) {
		t.Helper()
		cert, err := s.call(t, held, name)
		if err != nil || cert.Subject.CommonName != want {
			t.Errorf("the server shows %v, %v, want %s", cert, err, want)
		}
		<-s.seen
	}
	twice(c)
	if len(log.lines) > 0 {
		t.Errorf("nothing changed: %q", log.lines)
	}

	// In the middle of a renewal certificate and key do not match. That is nothing to speak of as long as it goes on.
	cert, key := pair(t, ca, func(c *x509.Certificate) { c.Subject.CommonName = "second" })
	put(t, f.ServerCert, cert)
	c.look()
	put(t, f.ServerKey, key)
	c.look()
	shows("h1", "h1")
	c.look()
	shows("h1", "second")
	if log.count("renewed") != 1 || log.count("refused") != 0 {
		t.Errorf("%q", log.lines)
	}

	// A bad file is refused, with its name, once; the last good one stays.
	put(t, f.ServerKey, []byte("garbage"))
	for range 5 {
		c.look()
	}
	got := status(c)
	if got.State != "failed" || !strings.Contains(got.Reason, "changed files are not in use: Can't read X509 key pair set in config") || !strings.Contains(got.Reason, f.ServerKey+" is not PEM") || got.Since.IsZero() {
		t.Errorf("%+v", got)
	}
	if log.count("changed certificates are refused, the former ones stay in use") != 1 || log.count(f.ServerKey+" is not PEM") != 1 {
		t.Errorf("%q", log.lines)
	}
	shows("h1", "second")
	os.Remove(f.ServerKey) // worse, and said so, too
	twice(c)
	if got := status(c); !strings.Contains(got.Reason, "does not exist") || log.count("are refused") != 2 {
		t.Errorf("%+v %q", got, log.lines)
	}
	if n, err := testutil.GatherAndCount(registered(c), "skydive_tls_certificate_not_after_seconds", "skydive_tls_refused_files_total"); n != 4 || err != nil || testutil.ToFloat64(only{c, refusedMetric()}) != 2 {
		t.Error(n, err)
	}

	// Put back as it was: well again, and nothing was renewed.
	put(t, f.ServerKey, key)
	twice(c)
	if got := status(c); got.State != "running" || got.Reason != "" || log.count("renewed") != 1 {
		t.Errorf("%+v %q", got, log.lines)
	}

	// Not yet valid: taken into use when its time has come, though no file changes then.
	cert, key = pair(t, ca, func(c *x509.Certificate) {
		c.Subject.CommonName, c.NotBefore = "third", time.Now().Add(time.Minute)
	})
	put(t, f.ServerCert, cert)
	put(t, f.ServerKey, key)
	twice(c)
	if got := status(c); !strings.Contains(got.Reason, "is not valid before") {
		t.Errorf("%+v", got)
	}
	c.clock = func() time.Time { return time.Now().Add(2 * time.Minute) }
	c.look()
	if got := status(c); got.State != "running" || got.Certificates[1].Subject != "CN=third" {
		t.Errorf("%+v", got)
	}
	c.clock = time.Now
	renew(t, ca, f.ServerCert, f.ServerKey, "fourth")
	twice(c)

	// Another authority. What held the former one is refused, on either side; who asks anew is not.
	put(t, f.CACert, certPEM(other.cert))
	renew(t, other, f.ServerCert, f.ServerKey, "fifth")
	renew(t, other, f.ClientCert, f.ClientKey, "fifth")
	twice(c)
	if _, err := s.call(t, held, "h1"); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("the former authority counts: %v", err)
	}
	<-s.seen
	held = c.Client()
	shows("h1", "fifth")
	former := mustNew(t, filesIn(t, ca)).Client()
	former.RootCAs = c.Client().RootCAs
	if _, err := s.call(t, former, "h1"); err == nil || !strings.Contains(err.Error(), "unknown certificate authority") {
		t.Errorf("a client of the former authority is let in: %v", err)
	}
	<-s.seen

	// What is held shows the renewed certificate of the client.
	renew(t, other, f.ClientCert, f.ClientKey, "sixth")
	twice(c)
	if p, err := held.GetClientCertificate(nil); err != nil || p.Leaf.Subject.CommonName != "sixth" {
		t.Errorf("%+v %v", p, err)
	}
}

// registered is what a service does.
func registered(c *Certificates) prometheus.Gatherer {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	return reg
}

// only is one metric of many.
type only struct {
	c    *Certificates
	desc *prometheus.Desc
}

func (o only) Describe(to chan<- *prometheus.Desc) { to <- o.desc }
func (o only) Collect(to chan<- prometheus.Metric) {
	all := make(chan prometheus.Metric, 10)
	o.c.Collect(all)
	close(all)
	for m := range all {
		if m.Desc().String() == o.desc.String() {
			to <- m
		}
	}
}

// Kubernetes, and whoever wants several files to change at once, replaces a link to their directory.
func TestReloadLinks(t *testing.T) {
	ca := authority(t)
	old := filesIn(t, ca)
	next := filesIn(t, ca)
	renew(t, ca, next.ServerCert, next.ServerKey, "next")
	dir := t.TempDir()
	link := filepath.Join(dir, "data")
	if err := os.Symlink(filepath.Dir(old.CACert), link); err != nil {
		t.Fatal(err)
	}
	at := func(file string) string { return filepath.Join(link, filepath.Base(file)) }
	c := mustNew(t, Files{CACert: at(old.CACert), ServerCert: at(old.ServerCert), ServerKey: at(old.ServerKey)})
	if err := os.Symlink(filepath.Dir(next.CACert), link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	twice(c)
	if got := status(c); got.State != "running" || got.Certificates[1].Subject != "CN=next" {
		t.Errorf("%+v", got)
	}
}

// A right that is given back is noticed, too: the file is the same.
func TestReloadRights(t *testing.T) {
	ca := authority(t)
	f := filesIn(t, ca)
	for dir := filepath.Dir(f.CACert); dir != os.TempDir(); dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755)
	}
	for _, file := range []string{f.CACert, f.ServerCert, f.ServerKey, f.ClientCert, f.ClientKey} {
		_ = os.Chmod(file, 0o644)
	}
	c := mustNew(t, f)
	_ = os.Chmod(f.ServerKey, 0o200)
	asNobody(t, func() { twice(c) })
	if got := status(c); got.State != "failed" || !strings.Contains(got.Reason, "cannot be read by this user") {
		t.Errorf("%+v", got)
	}
	_ = os.Chmod(f.ServerKey, 0o644)
	asNobody(t, func() { twice(c) })
	if got := status(c); got.State != "running" {
		t.Errorf("%+v", got)
	}
}

// A certificate is spoken of from 30 days before its end, every day, and louder when it has expired; it stays in use.
func TestAge(t *testing.T) {
	ca := authority(t)
	f := filesIn(t, ca)
	cert, key := pair(t, ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(40 * 24 * time.Hour) })
	put(t, f.ClientCert, cert)
	put(t, f.ClientKey, key)
	start := time.Now()
	now := start
	log, logger := newJournal()
	c, err := newCertificates(f, logger, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		days        float64
		state       string
		soon, ended int // lines of the log so far
		reason      string
	}{
		{0, "running", 0, 0, ""},
		{9.5, "running", 0, 0, ""},
		{10.5, "expiring", 1, 0, f.ClientCert + " expires on "},
		{10.6, "expiring", 1, 0, f.ClientCert + " expires on "},
		{11.6, "expiring", 2, 0, f.ClientCert + " expires on "},
		{40.1, "expired", 2, 1, f.ClientCert + " expired on "},
		{40.2, "expired", 2, 1, f.ClientCert + " expired on "},
		{41.2, "expired", 2, 2, f.ClientCert + " expired on "},
	} {
		now = start.Add(time.Duration(tc.days * 24 * float64(time.Hour)))
		c.look()
		got := status(c)
		if got.State != tc.state || !strings.HasPrefix(got.Reason, tc.reason) || got.Reason != "" && tc.reason == "" ||
			log.count("expires soon") != tc.soon || log.count("has expired") != tc.ended {
			t.Errorf("day %v: %s %q, %q, want %+v", tc.days, got.State, got.Reason, log.lines, tc)
		}
	}
	if log.count("level=WARN") != 2 || log.count("level=ERROR") != 2 || log.count("days=29") != 1 {
		t.Errorf("%q", log.lines)
	}
	// Renewed: all is well.
	put(t, f.ClientCert, cert) // the same once more is refused: it has expired
	twice(c)
	if got := status(c); got.State != "failed" || !strings.HasPrefix(got.Reason, f.ClientCert+" expired on ") || !strings.Contains(got.Reason, "; changed files are not in use: Can't read") {
		t.Errorf("%+v", got)
	}
	cert, key = pair(t, ca, func(c *x509.Certificate) { c.NotAfter = now.Add(365 * 24 * time.Hour) })
	put(t, f.ClientCert, cert)
	put(t, f.ClientKey, key)
	twice(c)
	if got := status(c); got.State != "running" || got.Reason != "" || !got.Since.Equal(now) {
		t.Errorf("%+v", got)
	}
}

func BenchmarkLook(b *testing.B) {
	c, err := New(filesIn(b, authority(b)), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		c.look()
	}
}
