package ovn

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"skydive/src/ovs"
	"skydive/src/probe"
)

// Config says where the northbound database is.
type Config struct {
	Address           string // as ovs.Options has it
	Cert, Key, CACert string // files (PEM), for ssl: addresses
	// Expiry is how long what is known of the database stays in the graph without a connection to it.
	Expiry time.Duration
}

// Spec describes the probe.
var Spec = probe.Define("ovn", "logical switches and routers, and all else of the OVN northbound database", Config{
	Address: "unix:///var/run/ovn/ovnnb_db.sock",
	Expiry:  35 * time.Second, // as for agents
}, New)

// New checks the configuration.
func New(env probe.Env, c Config) (probe.Probe, error) {
	if err := ovs.CheckAddress(c.Address); err != nil {
		return nil, err
	}
	if (c.Cert == "") != (c.Key == "") {
		return nil, errors.New("cert and key go together")
	}
	return &northbound{env: env, config: c}, nil
}

// secured tells whether there are certificates.
func (c *Config) secured() bool { return c.Cert != "" || c.CACert != "" }

// tls reads the certificates, as they are now.
func (c *Config) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate for OVN: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	if c.CACert != "" {
		text, err := os.ReadFile(c.CACert)
		if err != nil {
			return nil, fmt.Errorf("authorities of OVN: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("authorities of OVN: no certificate in %s", c.CACert)
		}
	}
	return t, nil
}
