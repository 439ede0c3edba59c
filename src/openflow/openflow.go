// Package openflow reads the rules and groups of an OpenFlow switch, versions 1.0 to 1.5, and follows their changes.
//
// It knows what a reader of rules needs and no more: matches of every class, the actions of the standard and those of Open vSwitch,
// statistics of flows, descriptions of groups, and the flow monitors. It never changes a switch and takes no packets from it. What it
// does not know it keeps as bytes.
package openflow

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// Handler takes what a Client learns. It is called from the goroutine of Run, one call at a time.
type Handler interface {
	// Connected tells that a switch answered, and how it is spoken to. Its rules follow.
	Connected(Version)
	// Disconnected tells that there is no connection, and why. Rules stay as they are for a while.
	Disconnected(error)
	// Changed tells what is new. Rules and groups belong to the client: they may change after the call.
	Changed(Update)
}

// Update is what changed since the last one. What is gone goes first: the same rule may be both.
type Update struct {
	GoneRules  []Key
	GoneGroups []uint32
	Rules      []*Rule  // new ones, and those of which anything changed, counters included
	Groups     []*Group // new and changed
	Omitted    int      // rules and groups that are not shown because there are too many
}

// Options of a client.
type Options struct {
	Address  string // unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT, also with // after the colon
	Versions []Version
	TLS      func() *tls.Config // for ssl; without a ServerName any name will do, if the authority does
	Poll     time.Duration      // time between two readings of the counters
	Limit    int                // rules, and groups, kept at most
	Handler  Handler
}

const (
	dialTimeout  = 5 * time.Second
	answerTime   = 30 * time.Second // for an answer to begin or go on
	silence      = 5 * time.Second  // then the switch is asked whether it is alive
	retryFirst   = 100 * time.Millisecond
	retryLast    = 10 * time.Second
	forgetAfter  = 5 * time.Second // without a connection, until rules count as gone
	coalesce     = 20 * time.Millisecond
	groupPoll    = 2 * time.Second
	fewGroups    = 100 // groups are asked for that often when there are no more than this
	defaultPoll  = 10 * time.Second
	defaultLimit = 100_000
	defaultPort  = "6653"
)

// Client follows one switch.
type Client struct {
	options Options
	network string
	address string
	offers  [][]Version
	spoken  Version // on the last connection
	table   table
}

// New checks the options.
func New(o Options) (*Client, error) {
	c := &Client{options: o}
	if c.options.Poll <= 0 {
		c.options.Poll = defaultPoll
	}
	if c.options.Limit <= 0 {
		c.options.Limit = defaultLimit
	}
	scheme, rest, ok := strings.Cut(o.Address, ":")
	if !ok {
		return nil, fmt.Errorf("address of a switch %q: want unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT", o.Address)
	}
	switch scheme {
	case "unix":
		c.network, c.address = "unix", strings.TrimPrefix(rest, "//")
	case "tcp", "ssl", "tls":
		c.network, c.address = "tcp", strings.TrimPrefix(rest, "//")
		if _, _, err := net.SplitHostPort(c.address); err != nil {
			c.address = net.JoinHostPort(strings.Trim(c.address, "[]"), defaultPort)
		}
		if scheme != "tcp" {
			c.network = "tls"
			if o.TLS == nil {
				return nil, fmt.Errorf("address of a switch %q: no certificates are configured", o.Address)
			}
		}
	default:
		return nil, fmt.Errorf("address of a switch %q: %s is not known, only unix, tcp and ssl", o.Address, scheme)
	}
	if c.address == "" {
		return nil, fmt.Errorf("address of a switch %q names none", o.Address)
	}
	if c.offers = offers(o.Versions); len(c.offers) == 0 {
		return nil, errors.New("no version of OpenFlow is configured")
	}
	c.table = newTable(c.options.Limit)
	return c, nil
}

// offers are the sets of versions to try. 1.1 and 1.2 come last: they have no monitor of rules, and 1.1 does not show all that a rule
// of Open vSwitch may match, while 1.0 with its extensions does.
func offers(versions []Version) [][]Version {
	var good, poor []Version
	for _, v := range versions {
		switch {
		case v < Version10 || v > Version15 || slices.Contains(good, v) || slices.Contains(poor, v):
		case v == Version11 || v == Version12:
			poor = append(poor, v)
		default:
			good = append(good, v)
		}
	}
	var sets [][]Version
	for _, set := range [][]Version{good, poor} {
		if len(set) > 0 {
			sets = append(sets, set)
		}
	}
	return sets
}

// Run follows the switch until ctx ends, with a new connection whenever one ends, and returns nil.
func (c *Client) Run(ctx context.Context) error {
	wait := retryFirst
	lost := time.Now()
	for ctx.Err() == nil {
		connected, err := c.try(ctx)
		if ctx.Err() != nil {
			break
		}
		if connected {
			wait, lost = retryFirst, time.Now()
		}
		c.options.Handler.Disconnected(err)
		timer := time.NewTimer(wait)
		forget := time.NewTimer(max(0, forgetAfter-time.Since(lost)))
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				waiting = false
			case <-timer.C:
				waiting = false
			case <-forget.C:
				c.table.forget()
				c.flush()
			}
		}
		timer.Stop()
		forget.Stop()
		wait = min(2*wait, retryLast)
	}
	return nil
}

// errVersions tells that a switch speaks none of the versions it was offered.
var errVersions = errors.New("no version in common")

// try has one connection, or one per set of versions until one of them suits the switch.
func (c *Client) try(ctx context.Context) (connected bool, err error) {
	for _, set := range c.offers {
		connected, err = c.connect(ctx, set)
		if !errors.Is(err, errVersions) {
			break
		}
	}
	return connected, err
}

func (c *Client) connect(ctx context.Context, versions []Version) (connected bool, err error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return false, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close()
	}()
	s := newSession(c, conn)
	if err := s.negotiate(versions); err != nil {
		return false, err
	}
	if c.spoken != s.version { // which writes matches otherwise
		c.spoken = s.version
		c.table.forget()
		c.flush()
	}
	c.options.Handler.Connected(s.version)
	err = s.follow()
	c.flush()
	return true, err
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if c.network == "tls" {
		config := c.options.TLS()
		if config == nil {
			return nil, errors.New("there are no certificates")
		}
		d := tls.Dialer{Config: anyName(config)}
		return d.DialContext(ctx, "tcp", c.address)
	}
	var d net.Dialer
	return d.DialContext(ctx, c.network, c.address)
}

// anyName leaves out the check of the name in the switch's certificate, unless one is told: switches have certificates without the
// names of hosts. Who signed it is checked.
func anyName(config *tls.Config) *tls.Config {
	if config.ServerName != "" || config.InsecureSkipVerify || config.RootCAs == nil {
		return config // without authorities of our own, anybody has a certificate of one of the system's: only the name tells them apart
	}
	config = config.Clone()
	config.InsecureSkipVerify = true // replaced by what follows
	config.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return errors.New("the switch shows no certificate")
		}
		between := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: config.RootCAs, Intermediates: between})
		return err
	}
	return config
}

// flush hands over what changed.
func (c *Client) flush() {
	if u, any := c.table.take(); any {
		c.options.Handler.Changed(u)
	}
}
