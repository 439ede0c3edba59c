package config

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Address is a TCP or UDP address. Host is never empty: an address written
// without one means this host alone, 127.0.0.1.
type Address struct {
	Host string // name, IPv4 or IPv6 without brackets
	Port int
}

// ErrAddress is wrapped by the errors of ParseAddress.
var ErrAddress = errors.New("invalid address")

// ParseAddress reads host:port, [v6]:port, :port or port; a port is a number
// or a service name. It never asks the network.
func ParseAddress(s string) (Address, error) {
	host, port := "", s
	if strings.Contains(s, ":") {
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return Address{}, fmt.Errorf("%w %q: want host:port, [IPv6]:port, :port or port", ErrAddress, s)
		}
	}
	if host == "" {
		host = "127.0.0.1"
	}
	if strings.ContainsAny(host, " \t\r\n/@") {
		return Address{}, fmt.Errorf("%w %q: %q is not a host", ErrAddress, s, host)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err == nil {
		return Address{Host: host, Port: int(n)}, nil
	}
	named, err := net.LookupPort("tcp", port)
	if port == "" || err != nil {
		return Address{}, fmt.Errorf("%w %q: %q is not a port", ErrAddress, s, port)
	}
	return Address{Host: host, Port: named}, nil
}

// String returns host:port, with an IPv6 host in brackets.
func (a Address) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

// MarshalText makes an address text in JSON and YAML.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// Loopback tells whether the address can be reached from this host alone.
func (a Address) Loopback() bool {
	ip := net.ParseIP(a.Host)
	return a.Host == "localhost" || ip != nil && ip.IsLoopback()
}
