package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// TLS names the files with which servers and clients of etcd prove who they are, to each other: all must show a certificate of the same
// authority. Certificates and keys that are renewed are used for the next connection, while broken ones are not; the authority is read when the service
// starts.
type TLS struct {
	CAFile                        string
	CertFile, KeyFile             string // of the server; also shown to others when there is no pair for clients
	ClientCertFile, ClientKeyFile string
}

// server returns what client and peer ports use. Members are known by the authority, not by their addresses: those change.
func (t *TLS) server() (transport.TLSInfo, error) {
	info := transport.TLSInfo{
		CertFile: t.CertFile, KeyFile: t.KeyFile, ClientCertFile: t.ClientCertFile, ClientKeyFile: t.ClientKeyFile,
		TrustedCAFile: t.CAFile, ClientCertAuth: true, SkipClientSANVerify: true,
	}
	if t.CAFile == "" {
		return info, errors.New("TLS of etcd has no file of an authority to know others by")
	}
	if _, err := info.ServerConfig(); err != nil {
		return info, fmt.Errorf("TLS of etcd with %s, %s and %s: %w", t.CAFile, t.CertFile, t.KeyFile, err)
	}
	return info, nil
}

func (t *TLS) client() (*tls.Config, error) {
	info := transport.TLSInfo{CertFile: t.ClientCertFile, KeyFile: t.ClientKeyFile, TrustedCAFile: t.CAFile}
	if t.ClientCertFile == "" {
		info.CertFile, info.KeyFile = t.CertFile, t.KeyFile
	}
	cfg, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("TLS to etcd with %s, %s and %s: %w", t.CAFile, info.CertFile, info.KeyFile, err)
	}
	cfg.MinVersion = tls.VersionTLS12
	return cfg, nil
}

// secure tells whether the embedded server uses TLS. A lone one on loopback does not, so that the documented command lines work: whoever
// is on the host may use it.
func (c Config) secure() bool {
	return c.Embedded && c.TLS != nil && (len(c.Peers) > 1 || !c.onLoopback())
}

// solo tells whether the embedded server is the only one, and reached from this host only.
func (c Config) solo() bool {
	return c.Embedded && len(c.Servers) == 0 && len(c.Peers) <= 1 && c.onLoopback()
}

func (c Config) onLoopback() bool {
	host, _, _ := net.SplitHostPort(c.Listen)
	return loopback(host)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// encrypt turns an http URL into an https one, and tells whether it had to.
func encrypt(text string) (string, bool) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" {
		return text, false
	}
	u.Scheme = "https"
	return u.String(), true
}

// loopbackKeys serves /v2/keys to this host in clear text beside a server that uses TLS on another address, so that the documented command
// lines work there, too. It returns what ends it; an address that is taken is none of its business.
func (s *Service) loopbackKeys(ctx context.Context) (stop func()) {
	host, port, err := net.SplitHostPort(s.cfg.Listen)
	if ip := net.ParseIP(host); err != nil || !s.cfg.secure() || loopback(host) || ip != nil && ip.IsUnspecified() {
		return func() {}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		s.opts.Log.Warn("etcd: /v2/keys is not served on loopback", "error", err)
		return func() {}
	}
	paths, mux := map[string]http.Handler{}, http.NewServeMux()
	newKeys(s, ctx.Done()).mount(paths)
	for path, h := range paths {
		mux.Handle(path, h)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: bodyLimit, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.opts.Log.Warn("etcd: /v2/keys is no longer served on loopback", "error", err)
		}
	}()
	return func() { _ = server.Close(); <-done } // a listener that fails to close is gone as well
}
