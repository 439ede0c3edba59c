// Package doctor finds out why an agent or an analyzer does not get a connection to an analyzer: it goes the way that the service goes,
// step by step – name, TCP, TLS, credentials, version, clock, WebSocket –, and says of each what came of it and what to do.
//
// It changes nothing: nobody is registered, no session begins, and it asks nobody but the addresses that it is given.
package doctor

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"skydive/src/tlsconf"
)

// State is what came of a step.
type State string

// The states.
const (
	OK      State = "ok"
	Failed  State = "failed"
	Skipped State = "skipped" // it could not be tried, or there is nothing to try
)

// Check is one step.
type Check struct {
	Name   string
	State  State
	Result string
	Advice string `json:",omitempty"` // what to do; there may be some though all is well
}

// Report is about one address, or about this host.
type Report struct {
	Address string
	Checks  []Check
}

// Failed tells whether any step failed.
func (r Report) Failed() bool {
	for _, c := range r.Checks {
		if c.State == Failed {
			return true
		}
	}
	return false
}

// ThisHost is the address of the report about what is here.
const ThisHost = "this host"

// Options say who asks, and how.
type Options struct {
	Addresses []string // host:port
	Service   string   // who connects: "agent" or "analyzer"
	HostID    string
	Version   string // of this program
	// The credentials and the cookies of the service.
	Username, Password string
	Cookies            []*http.Cookie
	// The certificates, or why there are none.
	Certificates      *tlsconf.Certificates
	CertificatesError error

	Timeout time.Duration    // of each step, 5 s
	Clock   func() time.Time // time.Now when nil
	Lookup  Lookup           // the system's when nil
	// Proxy is that of the environment when nil.
	Proxy func(*http.Request) (*url.URL, error)
}

// Lookup resolves a name.
type Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

// path is what the service connects to.
func (o Options) path() string {
	if o.Service == "analyzer" {
		return "/ws/replication"
	}
	return "/ws/agent/topology"
}

func (o Options) tls() *tls.Config {
	if o.Certificates == nil {
		return nil
	}
	return o.Certificates.Client()
}

// together is how many addresses are visited at a time.
const together = 8

// Run goes to all addresses. The first report is about this host.
func Run(ctx context.Context, o Options) []Report {
	o = o.withDefaults()
	reports := make([]Report, 1+len(o.Addresses))
	reports[0] = Report{ThisHost, []Check{o.certificates()}}
	turn := make(chan struct{}, together)
	var wait sync.WaitGroup
	for i, address := range o.Addresses {
		wait.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			reports[i+1] = o.visit(ctx, address)
		})
	}
	wait.Wait()
	return reports
}

func (o Options) withDefaults() Options {
	if o.Timeout <= 0 {
		o.Timeout = 5 * time.Second
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Lookup == nil {
		o.Lookup = systemLookup
	}
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	return o
}

// certificates tells how those of this host are.
func (o Options) certificates() Check {
	check := Check{Name: "certificates", State: Failed}
	switch {
	case o.CertificatesError != nil:
		check.Result, check.Advice = o.CertificatesError.Error(), "no service starts with these; skydive tls check FILE… tells what is in files"
		return check
	case o.Certificates == nil || !o.Certificates.Enabled():
		check.State, check.Result = Skipped, "no key of the section tls is set: connections are not encrypted"
		return check
	}
	status := o.Certificates.Status().(tlsconf.Status)
	check.State = OK
	for _, c := range status.Certificates {
		if c.Use == "ca" {
			continue
		}
		if check.Result != "" {
			check.Result += "; "
		}
		check.Result += c.Use + " " + c.File + " until " + c.NotAfter.Format(time.DateOnly)
	}
	for _, text := range append(status.Warnings, status.Reason) {
		if text == "" {
			continue
		}
		if check.Advice != "" {
			check.Advice += "; "
		}
		check.Advice += text
	}
	return check
}
