// Package tlsconf holds the certificates of a service: it reads and checks the files of the configuration's section tls, gives the TLS
// configurations of servers and clients, and follows the files when they are renewed. It also makes certificates, for those who have
// no authority of their own.
//
// It never falls back to clear text, to an unverified peer or to a broken file: what cannot be used is an error that names the file and
// the reason, and while a service runs the last good files stay in use. It opens no connection.
package tlsconf

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Files are the keys of the section tls: PEM files.
type Files struct {
	CACert, ServerCert, ServerKey, ClientCert, ClientKey string
	RequireClientCert                                    bool // of all clients, not only of agents and analyzers
}

// check finds what is missing. off: nothing at all is wanted.
func (f Files) check() (off bool, _ error) {
	if f == (Files{}) {
		return true, nil
	}
	var problems []string
	pair := func(name, cert, key string) (given bool) {
		switch {
		case cert != "" && key == "":
			problems = append(problems, fmt.Sprintf("tls.%s_cert is set, but tls.%s_key is not", name, name))
		case cert == "" && key != "":
			problems = append(problems, fmt.Sprintf("tls.%s_key is set, but tls.%s_cert is not", name, name))
		}
		return cert != "" || key != ""
	}
	server, client := pair("server", f.ServerCert, f.ServerKey), pair("client", f.ClientCert, f.ClientKey)
	switch {
	case f.RequireClientCert && !server:
		problems = append(problems, "tls.require_client_cert is set, but tls.server_cert and tls.server_key are not")
	case !server && !client:
		problems = append(problems, "tls.ca_cert is set, but neither tls.server_cert with tls.server_key nor tls.client_cert with tls.client_key")
	}
	if f.CACert == "" && (server || client) {
		problems = append(problems, "tls.ca_cert is not set, so that nobody's certificate could be checked")
	}
	if len(problems) > 0 {
		return false, errors.New("TLS is configured by halves: " + strings.Join(problems, "; "))
	}
	return false, nil
}

// lookEvery is how often the files are looked at.
const lookEvery = 5 * time.Second

// Certificates are the files in use. Its methods may be called by several goroutines.
type Certificates struct {
	files Files
	log   *slog.Logger
	clock func() time.Time
	every time.Duration
	inUse atomic.Pointer[snapshot] // nil: TLS is off

	// Run alone has these.
	seen   marks     // of the files when they were last looked at
	loaded marks     // of the files in use
	warned time.Time // when the age was last spoken of

	mu      sync.Mutex // guards what follows, which Run alone changes; it is not held while files are read
	refusal string     // why the files as they are now are not in use
	age     age
	since   time.Time // when the state last changed
	refused float64   // how often changed files were
}

// New reads and checks the files. Without any, TLS is off.
func New(f Files, log *slog.Logger) (*Certificates, error) {
	return newCertificates(f, log, time.Now)
}

func newCertificates(f Files, log *slog.Logger, clock func() time.Time) (*Certificates, error) {
	c := &Certificates{files: f, log: log, clock: clock, every: lookEvery, since: clock()}
	if off, err := f.check(); off || err != nil {
		return c, err
	}
	c.seen = marksOf(f)
	s, err := read(f, clock())
	if err != nil {
		return nil, err
	}
	c.loaded = c.seen
	c.use(s)
	c.grow(s)
	return c, nil
}

// Enabled tells whether TLS is on.
func (c *Certificates) Enabled() bool { return c.inUse.Load() != nil }

// ciphers of TLS 1.2; those of 1.3 are not for choosing.
func ciphers() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	}
}

// Server is for a listener; it follows the files handshake by handshake. Nil: without a server certificate.
//
// A client certificate is verified if one is shown; tls.ConnectionState.VerifiedChains tells. Sessions are not resumed: an authority that was
// taken out of ca_cert counts no more from the next connection on.
func (c *Certificates) Server() *tls.Config {
	s := c.inUse.Load()
	if s == nil || s.server == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return c.inUse.Load().config, nil
		},
	}
}

func (s *snapshot) serverConfig(require bool) *tls.Config {
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, CipherSuites: ciphers(), SessionTicketsDisabled: true,
		NextProtos:   []string{"http/1.1"}, // WebSockets need it, and REST gains nothing by another one
		Certificates: []tls.Certificate{*s.server},
		ClientCAs:    s.roots, ClientAuth: tls.VerifyClientCertIfGiven,
	}
	if require {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config
}

// Client is for one attempt to connect: ask again for the next one, as roots cannot be replaced below a configuration. Nil: TLS is off.
func (c *Certificates) Client() *tls.Config {
	s := c.inUse.Load()
	if s == nil {
		return nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: ciphers(), RootCAs: s.roots}
	if s.client == nil {
		config.RootCAs = s.publicRoots()
		return config
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		// Whatever authorities the server names: its refusal says more than a missing certificate.
		return c.inUse.Load().client, nil
	}
	return config
}

// publicRoots are those of the system besides those of ca_cert, for services that show no certificate.
func (s *snapshot) publicRoots() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return s.roots // a system without
	}
	for _, a := range s.authorities {
		pool.AddCert(a)
	}
	return pool
}

// Run follows the files until ctx ends.
func (c *Certificates) Run(ctx context.Context) error {
	if !c.Enabled() {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			c.look()
		}
	}
}

// look takes changed files into use once nobody writes to them any more, that is, when two looks find the same.
func (c *Certificates) look() {
	now := marksOf(c.files)
	settled := now == c.seen
	c.seen = now
	if settled && (now != c.loaded || c.refusal != "") {
		c.reload(now)
	}
	c.grow(c.inUse.Load())
}

func (c *Certificates) reload(now marks) {
	s, err := read(c.files, c.clock())
	if err == nil && marksOf(c.files) != now {
		return // they changed while they were read: next time
	}
	if err != nil {
		if c.refuse(err.Error()) {
			c.log.Error("changed certificates are refused, the former ones stay in use", "reason", err)
		}
		return
	}
	c.refuse("")
	if now != c.loaded {
		c.loaded = now
		before := c.inUse.Load().summary()
		c.use(s)
		if s.summary() != before {
			c.log.Info("certificates were renewed", "certificates", s.summary())
		}
	}
}

// refuse notes why changed files are not in use, "" when they are, and tells whether that is new.
func (c *Certificates) refuse(reason string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if reason == c.refusal {
		return false
	}
	c.refusal, c.since = reason, c.clock()
	if reason != "" {
		c.refused++
	}
	return true
}

func (c *Certificates) use(s *snapshot) {
	if s.server != nil {
		s.config = s.serverConfig(c.files.RequireClientCert)
	}
	for _, w := range s.warnings {
		c.log.Warn(w)
	}
	c.inUse.Store(s)
}

// warnBefore is how long before its end a certificate is spoken of.
const warnBefore = 30 * 24 * time.Hour

// age of the certificate that ends first.
type age string

const (
	good     age = "running"
	expiring age = "expiring"
	expired  age = "expired"
)

// grow speaks of what is about to end or has ended, when that begins and every day.
func (c *Certificates) grow(s *snapshot) {
	now := c.clock()
	first := s.first()
	is := good
	switch left := first.NotAfter.Sub(now); {
	case left <= 0:
		is = expired
	case left < warnBefore:
		is = expiring
	}
	if is != c.age {
		c.warned = time.Time{}
		c.mu.Lock()
		c.age, c.since = is, now
		c.mu.Unlock()
	}
	if is == good || now.Sub(c.warned) < 24*time.Hour {
		return
	}
	c.warned = now
	if is == expired {
		c.log.Error("a certificate has expired: peers refuse it", "file", first.File, "not_after", first.NotAfter, "subject", first.Subject)
		return
	}
	c.log.Warn("a certificate expires soon", "file", first.File, "not_after", first.NotAfter, "days", int(first.NotAfter.Sub(now).Hours()/24), "subject", first.Subject)
}

// Status describes the certificates; there is no key in it.
type Status struct {
	State        string // off, running, expiring, expired, or failed: changed files were refused
	Reason       string `json:",omitempty"`
	Since        time.Time
	Certificates []Certificate `json:",omitempty"`
	Warnings     []string      `json:",omitempty"`
}

// Status tells how it stands, as a Status.
func (c *Certificates) Status() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.inUse.Load()
	if s == nil {
		return Status{State: "off", Reason: "no key of the section tls is set", Since: c.since}
	}
	status := Status{State: string(c.age), Since: c.since, Certificates: s.list, Warnings: s.warnings}
	first := s.first()
	switch c.age {
	case expired:
		status.Reason = fmt.Sprintf("%s expired on %s", first.File, first.NotAfter.UTC().Format(time.RFC3339))
	case expiring:
		status.Reason = fmt.Sprintf("%s expires on %s", first.File, first.NotAfter.UTC().Format(time.RFC3339))
	}
	if c.refusal != "" {
		status.State = "failed"
		status.Reason = strings.TrimPrefix(status.Reason+"; changed files are not in use: "+c.refusal, "; ")
	}
	return status
}
