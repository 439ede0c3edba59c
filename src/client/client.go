// Package client talks to an analyzer or agent over REST and WebSocket, for the
// command line, the doctor and the end-to-end tests. It holds no state but its
// options and a login token, and never retries: who asked decides.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// DefaultAnalyzer is asked when Options.Analyzer is empty.
const DefaultAnalyzer = "127.0.0.1:8082"

// Options say whom to ask and as whom. The zero value asks DefaultAnalyzer
// without credentials.
type Options struct {
	Analyzer           string        // "host:port", ":port" or "port"
	Username, Password string        // Basic authentication on every call when Username is set
	CACert, Cert, Key  string        // PEM files; TLS is used if Cert and Key are given, or CACert alone
	Insecure           bool          // with TLS: do not verify the server
	Timeout            time.Duration // until the header of the answer, 60 s; its body is bounded by the caller's context only
	Logger             *slog.Logger  // nil: silent
}

// Client asks one server. It is safe for concurrent use.
type Client struct {
	o     Options
	addr  string
	tls   *tls.Config // nil without TLS
	http  *http.Client
	token atomic.Pointer[string] // from Login
}

// New checks the options and reads the certificates; it does not connect.
func New(o Options) (*Client, error) {
	c := &Client{o: o}
	var err error
	if c.addr, err = parseAddr(cmp.Or(o.Analyzer, DefaultAnalyzer)); err != nil {
		return nil, err
	}
	if c.tls, err = tlsConfig(o); err != nil {
		return nil, err
	}
	if c.o.Logger == nil {
		c.o.Logger = slog.New(slog.DiscardHandler)
	}
	c.http = &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: c.tls, ForceAttemptHTTP2: true,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 30 * time.Second,
		ResponseHeaderTimeout: cmp.Or(o.Timeout, time.Minute),
	}}
	return c, nil
}

// parseAddr completes host:port, :port and port with the loopback address.
func parseAddr(s string) (string, error) {
	if !strings.Contains(s, ":") {
		s = ":" + s
	}
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", fmt.Errorf("analyzer address '%s' is not host:port, :port or port", s)
	}
	return net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port), nil
}

func tlsConfig(o Options) (*tls.Config, error) {
	if o.Cert == "" && o.Key == "" && o.CACert == "" {
		return nil, nil
	}
	if (o.Cert == "") != (o.Key == "") {
		return nil, errors.New("TLS needs both a certificate and its key")
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.Insecure}
	if o.Cert != "" { // users need none, unless tls.require_client_cert is set there
		pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, fmt.Errorf("load client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if o.CACert != "" {
		pem, err := os.ReadFile(o.CACert)
		if err != nil {
			return nil, fmt.Errorf("load CA certificate: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("load CA certificate: %s holds no PEM certificate", o.CACert)
		}
	}
	return config, nil
}

// Addr is host:port of the server.
func (c *Client) Addr() string { return c.addr }

// TLS is the TLS configuration, nil when TLS is not used. It must not be changed.
func (c *Client) TLS() *tls.Config { return c.tls }

// URL is scheme, host and port of the server.
func (c *Client) URL() string {
	if c.tls != nil {
		return "https://" + c.addr
	}
	return "http://" + c.addr
}

// Error is an answer of the server that is not a success.
type Error struct {
	Op     string // what failed, "get capture"; may be empty
	Status int
	Text   string // the body
}

// Error reads "Failed to get capture, 404 Not Found: Capture 'x' not found".
func (e *Error) Error() string {
	s := strings.TrimSuffix(fmt.Sprintf("%d %s: %s", e.Status, http.StatusText(e.Status), e.Text), ": ")
	if e.Op != "" {
		return "Failed to " + e.Op + ", " + s
	}
	return s
}

// maxErrorText is how much of an error page is kept.
const maxErrorText = 16 << 10

func answerError(op string, resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
	return &Error{Op: op, Status: resp.StatusCode, Text: strings.TrimSpace(string(text))}
}

// Do sends one request with the client's credentials. The caller looks at the
// status and closes the body. path begins with "/" and is escaped already.
func (c *Client) Do(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.URL()+path, body)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		r.Header[name] = values
	}
	if token := c.token.Load(); token != nil {
		r.Header.Set("X-Auth-Token", *token)
	} else if c.o.Username != "" {
		r.SetBasicAuth(c.o.Username, c.o.Password)
	}
	return c.http.Do(r)
}

// call sends body as JSON and decodes the answer into into, unless that is nil. A
// status that is not among ok is an *Error. It returns the status.
func (c *Client) call(ctx context.Context, op, method, path string, header http.Header, body, into any, ok ...int) (int, error) {
	var in io.Reader
	if header == nil {
		header = http.Header{}
	}
	header.Set("Accept", "application/json")
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, fmt.Errorf("Failed to %s: %w", op, err)
		}
		header.Set("Content-Type", "application/json")
		in = bytes.NewReader(b)
	}
	resp, err := c.Do(ctx, method, path, header, in)
	if err != nil {
		return 0, fmt.Errorf("Failed to %s: %w", op, err)
	}
	defer resp.Body.Close()
	for _, status := range ok {
		if resp.StatusCode != status {
			continue
		}
		if into != nil && status != http.StatusNotModified {
			if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
				return status, fmt.Errorf("Failed to %s: decode answer: %w", op, err)
			}
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxErrorText)) // so that the connection can be used again
		return status, nil
	}
	return resp.StatusCode, answerError(op, resp)
}

func resourcePath(kind, id string) string {
	if id == "" {
		return "/api/" + url.PathEscape(kind)
	}
	return "/api/" + url.PathEscape(kind) + "/" + url.PathEscape(id)
}
