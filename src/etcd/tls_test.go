package etcd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// certificates makes an authority and certificates of it in files: of this host for servers, and one for clients.
func certificates(t *testing.T) *TLS {
	t.Helper()
	files, _ := renewable(t)
	return files
}

// renewable also returns what replaces the certificate for servers.
func renewable(t *testing.T) (*TLS, func()) {
	t.Helper()
	dir := t.TempDir()
	file := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	serial := int64(0)
	var ca *x509.Certificate
	var caKey *ecdsa.PrivateKey
	issue := func(name string, template x509.Certificate) (cert, key string) {
		secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		serial++
		template.SerialNumber, template.Subject = big.NewInt(serial), pkix.Name{CommonName: name}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		template.BasicConstraintsValid = true
		if ca == nil {
			ca, caKey = &template, secret
		}
		der, err := x509.CreateCertificate(rand.Reader, &template, ca, &secret.PublicKey, caKey)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(secret)
		if err != nil {
			t.Fatal(err)
		}
		return file(name+".crt", "CERTIFICATE", der), file(name+".key", "PRIVATE KEY", private)
	}
	var files TLS
	files.CAFile, _ = issue("ca", x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign})
	renew := func() {
		files.CertFile, files.KeyFile = issue("server", x509.Certificate{
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
	}
	renew()
	files.ClientCertFile, files.ClientKeyFile = issue("client", x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return &files, renew
}

// A new certificate is used without a restart, for clients and members; one that nobody would accept is not.
func TestCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	files, renew := renewable(t)
	cfgs := cluster(t, 2, files)
	var log lockedBuffer
	first, second := begin(t, cfgs[0], slog.New(slog.NewTextHandler(&log, nil))), begin(t, cfgs[1], quiet())
	first.wait(t)
	second.wait(t)
	addresses := []string{cfgs[0].Listen, strings.TrimPrefix(cfgs[0].Peers["m0"], "http://")}
	was := serials(t, files, addresses...)
	running := *files
	// Rubbish, a half pair and what another authority issued are not used.
	other, _ := renewable(t)
	for name, broken := range map[string][2]string{"rubbish": {files.CAFile, ""}, "other authority": {other.CertFile, other.KeyFile}} {
		for i, to := range []string{files.CertFile, files.KeyFile} {
			text := []byte("rubbish")
			if broken[i] != "" {
				var err error
				if text, err = os.ReadFile(broken[i]); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(to, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		said := strings.Count(log.String(), "refused")
		eventually(t, 3*followEvery, "refusal of "+name, func() bool { return strings.Count(log.String(), "refused") > said })
		if now := serials(t, &running, addresses...); !slices.Equal(now, was) {
			t.Errorf("%s: %v instead of %v", name, now, was)
		}
	}
	renew()
	eventually(t, 3*followEvery, "the new certificate", func() bool {
		now := serials(t, files, addresses...)
		return now[0] != was[0] && now[1] != was[1]
	})
	// The members find each other again with it.
	second.stop()
	again := begin(t, cfgs[1], quiet())
	again.wait(t)
	if err := again.Put(t.Context(), "/x", []byte("1")); err != nil {
		t.Error(err)
	}
}

// Without copies the files themselves are used, and nothing stays open.
func TestFilesThatCannotBeCopied(t *testing.T) {
	for name, change := range map[string]func(*TLS){
		"no authority":     func(f *TLS) { f.CAFile = "/nowhere/ca" },
		"empty authority":  func(f *TLS) { f.CAFile = f.KeyFile },
		"no certificate":   func(f *TLS) { f.ClientCertFile = "/nowhere/crt" },
		"key of another":   func(f *TLS) { f.ClientKeyFile = f.KeyFile },
		"certificate only": func(f *TLS) { f.KeyFile = "" },
	} {
		files := *certificates(t)
		change(&files)
		if p, err := copyTLS(files); err == nil || p != nil {
			t.Errorf("%s: %v", name, p)
		}
		s := &Service{cfg: Config{TLS: &files, Servers: []string{"https://192.0.2.1:1"}}, opts: Options{Log: quiet()}}
		s.copyFiles(t.Context())()
		if s.files() != &files {
			t.Errorf("%s: %v", name, s.files())
		}
	}
}

func serials(t *testing.T, files *TLS, addresses ...string) (list []string) {
	t.Helper()
	secure, err := files.client()
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range addresses {
		c, err := tls.Dial("tcp", at, secure)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, c.ConnectionState().PeerCertificates[0].SerialNumber.String())
		c.Close()
	}
	return list
}

// cluster returns the configurations of members that know each other by clear text URLs.
func cluster(t *testing.T, n int, files *TLS) []Config {
	t.Helper()
	peers, cfgs := map[string]string{}, []Config{}
	for i := range n {
		c := embedded(t, t.TempDir())
		c.Name, c.TLS = fmt.Sprintf("m%d", i), files
		_, port, _ := net.SplitHostPort(c.Listen)
		var peer int
		if _, err := fmt.Sscan(port, &peer); err != nil {
			t.Fatal(err)
		}
		peers[c.Name] = fmt.Sprintf("http://127.0.0.1:%d", peer+1)
		cfgs = append(cfgs, c)
	}
	for i := range cfgs {
		cfgs[i].Peers = peers
	}
	return cfgs
}

// member is a service of a cluster that a test stops and starts.
type member struct {
	*Service
	stop  func()
	ended chan error // what Run returned; put back what you take
}

// begin starts a service without waiting for it.
func begin(t *testing.T, cfg Config, log *slog.Logger) *member {
	t.Helper()
	s, err := New(cfg, Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	m := &member{Service: s, ended: done, stop: func() { cancel(); err := <-done; done <- err }}
	t.Cleanup(m.stop)
	return m
}

func (m *member) wait(t *testing.T) {
	t.Helper()
	select {
	case <-m.Ready():
	case <-time.After(30 * time.Second):
		t.Fatalf("not ready in 30 s: %+v", m.Status())
	}
}

func TestThreePeersWithTLS(t *testing.T) {
	t.Parallel()
	files := certificates(t)
	cfgs := cluster(t, 3, files)
	var log lockedBuffer
	var members []*member
	for _, c := range cfgs {
		members = append(members, begin(t, c, slog.New(slog.NewTextHandler(&log, nil))))
	}
	for _, m := range members {
		m.wait(t)
	}
	ctx := t.Context()
	if err := members[0].Put(ctx, "/x", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if v, _, err := members[2].Get(ctx, "/x"); err != nil || string(v) != "1" {
		t.Errorf("%q %v", v, err)
	}
	if got := log.String(); !strings.Contains(got, "etcd.peers: http://127.0.0.1:") || !strings.Contains(got, "is taken as https") {
		t.Errorf("nothing says that URLs are changed: %s", got)
	}
	// In clear text, or without a certificate, nobody gets in: neither at the client port nor at the peer port.
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(files.CAFile)
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	naked := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	peer := strings.Replace(cfgs[0].Peers["m0"], "http://", "", 1)
	for _, at := range []string{cfgs[0].Listen + "/v2/keys/", cfgs[0].Listen + "/version", peer + "/members", peer + "/raft"} {
		for _, scheme := range []string{"http://", "https://"} {
			r, err := http.NewRequestWithContext(ctx, "GET", scheme+at, nil)
			if err != nil {
				t.Fatal(err)
			}
			if reply, err := naked.Do(r); err == nil {
				reply.Body.Close()
				if reply.StatusCode < 400 {
					t.Errorf("%s%s: %s", scheme, at, reply.Status)
				}
			}
		}
	}
	clear, err := clientv3.New(clientv3.Config{Endpoints: []string{"http://" + cfgs[0].Listen}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer clear.Close()
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := clear.Get(short, "/x"); err == nil {
		t.Error("a client in clear text got an answer")
	}
	// With one it works: curl as documented, and another process's client.
	out, err := exec.CommandContext(ctx, "curl", "-sS", "--cacert", files.CAFile, "--cert", files.ClientCertFile, "--key", files.ClientKeyFile,
		"https://"+cfgs[1].Listen+"/v2/keys/x").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(`"value":"1"`)) {
		t.Errorf("curl: %v %s", err, out)
	}
	outside, _ := run(t, Config{Servers: []string{"https://" + cfgs[0].Listen, "https://" + cfgs[1].Listen}, TLS: files, ClientTimeout: 5 * time.Second})
	if v, _, err := outside.Get(ctx, "/x"); err != nil || string(v) != "1" {
		t.Errorf("%q %v", v, err)
	}
	// Servers of a cluster with TLS, named with http.
	cfgs[0].Servers = []string{"http://" + cfgs[0].Listen}
	if s, err := New(cfgs[0], Options{Log: quiet()}); err != nil || s.Status().Address != cfgs[0].Listen || s.cfg.Servers[0] != "https://"+cfgs[0].Listen {
		t.Errorf("%v %v", s.cfg.Servers, err)
	}
}

// The documented command line works beside TLS: on loopback, which others do not reach.
func TestKeysOnLoopbackBesideTLS(t *testing.T) {
	cfg := embedded(t, t.TempDir())
	_, port, _ := net.SplitHostPort(cfg.Listen)
	cfg.Listen, cfg.TLS = hostAddress(t)+":"+port, certificates(t)
	s, _ := run(t, cfg)
	if status, text := call(t, "PUT", "http://127.0.0.1:"+port+"/v2/keys/casbinPolicy?value=p", nil); status != 201 {
		t.Errorf("%d %s", status, text)
	}
	if v, _, err := s.Get(t.Context(), "/casbinPolicy"); err != nil || string(v) != "p" {
		t.Errorf("%q %v", v, err)
	}
	if status, _ := call(t, "GET", "http://127.0.0.1:"+port+"/version", nil); status != 404 {
		t.Errorf("more than keys is in clear text: %d", status)
	}
	if reply, err := http.Get("http://" + cfg.Listen + "/v2/keys/"); err == nil {
		reply.Body.Close()
		t.Errorf("clear text beyond loopback: %s", reply.Status)
	}
}

// hostAddress is an address of this host that is not loopback.
func hostAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String()
		}
	}
	if os.Getenv("SKYDIVE_CI") == "1" {
		t.Fatal("this host has no address but loopback")
	}
	t.Skip("this host has no address but loopback")
	return ""
}

func TestTLSRefuses(t *testing.T) {
	files := certificates(t)
	base := cluster(t, 2, files)[0]
	for name, change := range map[string]func(*Config){
		"no authority":       func(c *Config) { c.TLS.CAFile = "" },
		"authority missing":  func(c *Config) { c.TLS.CAFile = "/nowhere/ca" },
		"key of another":     func(c *Config) { c.TLS.KeyFile = c.TLS.ClientKeyFile },
		"certificate absent": func(c *Config) { c.TLS.CertFile = "/nowhere/crt" },
		"client key absent":  func(c *Config) { c.TLS.ClientKeyFile = "/nowhere/key" },
		"https without TLS": func(c *Config) {
			c.TLS = nil
			c.Peers = map[string]string{"m0": "https://127.0.0.1:1", "m1": "https://127.0.0.1:2"}
		},
	} {
		c, copied := base, *files
		c.TLS = &copied
		change(&c)
		if _, err := New(c, Options{Log: quiet()}); err == nil {
			t.Errorf("%s: accepted", name)
		} else {
			t.Log(name, "–", err)
		}
	}
}
