package ovs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// address is where a server listens.
type address struct {
	network string // unix, tcp or tls
	at      string
}

func (a address) String() string { return a.network + ":" + a.at }

// defaultPort is that of OVSDB at IANA.
const defaultPort = "6640"

// CheckAddress tells what is wrong with the text of an address.
func CheckAddress(text string) error {
	_, err := parseAddresses(text)
	return err
}

// SocketPath returns the path of the socket when the address is that of one.
func SocketPath(text string) (path string, ok bool) {
	all, err := parseAddresses(text)
	if err != nil || len(all) != 1 || all[0].network != "unix" {
		return "", false
	}
	return all[0].at, true
}

func parseAddresses(text string) ([]address, error) {
	var all []address
	for part := range strings.SplitSeq(text, ",") {
		a, err := parseAddress(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

func parseAddress(text string) (address, error) {
	bad := func(why string) (address, error) { return address{}, fmt.Errorf("OVSDB address %q: %s", text, why) }
	if text == "" {
		return bad("empty")
	}
	network, at := "tcp", text
	for _, scheme := range [...]string{"unix", "tcp", "ssl", "tls"} {
		if rest, ok := strings.CutPrefix(text, scheme+":"); ok {
			network, at = scheme, strings.TrimPrefix(rest, "//")
			break
		}
	}
	if strings.HasPrefix(text, "/") {
		network = "unix"
	}
	switch {
	case network == "unix" && at == "":
		return bad("no path")
	case network == "unix":
		return address{network, at}, nil
	case network == "ssl":
		network = "tls"
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		host, port = strings.Trim(at, "[]"), defaultPort
		if _, err := netip.ParseAddr(host); err != nil && strings.ContainsAny(host, ":/[]") {
			return bad("neither a path nor host:port")
		}
	}
	if host == "" || port == "" {
		return bad("no host or no port")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return bad("no port: " + port)
	}
	return address{network, net.JoinHostPort(host, port)}, nil
}

func (c *Client) dial(ctx context.Context, a address) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: c.timeout}
	if a.network != "tls" {
		return dialer.DialContext(ctx, a.network, a.at)
	}
	if c.options.TLS == nil {
		return nil, errors.New("no certificates are configured for TLS")
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return (&tls.Dialer{NetDialer: dialer, Config: chainOnly(c.options.TLS())}).DialContext(ctx, "tcp", a.at)
}

// chainOnly makes a configuration without a server name accept any name in a certificate that an authority of it signed.
func chainOnly(cfg *tls.Config) *tls.Config {
	if cfg.ServerName != "" || cfg.InsecureSkipVerify || cfg.RootCAs == nil {
		return cfg // without authorities of our own, anybody has a certificate of one of the system's: only the name tells them apart
	}
	cfg = cfg.Clone()
	roots := cfg.RootCAs
	cfg.InsecureSkipVerify = true // of what follows, only the name is left out
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		chain := x509.NewCertPool()
		for _, cert := range state.PeerCertificates[1:] {
			chain.AddCert(cert)
		}
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: chain})
		return err
	}
	return cfg
}
