package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestRootTenThousandBadLogins guesses passwords from one host. Who knows one is let in all the same, from there and from elsewhere, and
// agents go on reporting; the guesses cost the analyzer little.
func TestRootTenThousandBadLogins(t *testing.T) {
	l := newLab(t)
	an, h1 := addHost(t, l, "an"), addHost(t, l, "h1")
	const users = `auth: {api: {type: basic, users: {ann: ann-knows}}, cluster: {type: basic, users: {agents: agents-know}}}
`
	p, err := an.Start(fmt.Sprintf("host_id: an\nanalyzer: {listen: 0.0.0.0:8082, auth: {api: {backend: api}, cluster: {backend: cluster}}}\netcd: {data_dir: %s/etcd}\n%s%s",
		an.Dir, users, quick), "analyzer")
	need(t, err)
	login := func(from *http.Client, user, password string) (int, error) {
		r, err := http.NewRequest("GET", "http://"+an.analyzerAddr()+"/api/status", nil)
		if err != nil {
			return 0, err
		}
		r.SetBasicAuth(user, password)
		res, err := from.Do(r)
		if err != nil {
			return 0, err
		}
		res.Body.Close()
		return res.StatusCode, nil
	}
	here := an.HTTP()
	let := func() error {
		status, err := login(here, "ann", "ann-knows")
		if err == nil && status != 200 {
			err = fmt.Errorf("ann is answered %d", status)
		}
		return p.alive(err)
	}
	need(t, Until(20*time.Second, let))
	_, err = h1.Start(fmt.Sprintf("host_id: h1\nanalyzers: [%s]\nagent: {topology: {probes: []}, auth: {cluster: {username: agents, password: agents-know}}}\n%s", an.analyzerAddr(), quick), "agent")
	need(t, err)
	before, err := p.Usage()
	need(t, err)

	var refused, limited atomic.Int64
	var guessing sync.WaitGroup
	for n := range 8 {
		guessing.Go(func() {
			guesser := h1.HTTP()
			defer guesser.CloseIdleConnections()
			for i := range 10_000 / 8 {
				switch status, err := login(guesser, []string{"ann", "bob", "agents"}[i%3], fmt.Sprintf("guess-%d-%d", n, i)); {
				case err != nil:
					t.Error(err)
					return
				case status == 401:
					refused.Add(1)
				case status == 429:
					limited.Add(1)
				default:
					t.Errorf("a guess is answered %d", status)
				}
			}
		})
	}
	over := make(chan struct{})
	go func() { guessing.Wait(); close(over) }()
	for guesses := true; guesses; {
		if err := let(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-over:
			guesses = false
		default:
		}
	}
	t.Logf("%d refused, %d not even looked at", refused.Load(), limited.Load())
	if limited.Load() < 9000 {
		t.Errorf("only %d of 10000 guesses were held up", limited.Load())
	}
	need(t, Until(20*time.Second, func() error {
		out, err := an.Run("env", "SKYDIVE_USERNAME=ann", "SKYDIVE_PASSWORD=ann-knows", l.Binary, "client", "query", "G.V().Has('Type', 'host').Values('Name')")
		if err == nil && !strings.Contains(out, "h1") {
			err = fmt.Errorf("the agent does not report: %s", out)
		}
		return err
	}))
	after, err := p.Usage()
	need(t, err)
	if after.RSS > before.RSS+32<<20 {
		t.Errorf("the guesses cost %d MB", (after.RSS-before.RSS)>>20)
	}
}

// TestRootExpiredCertificate lets the certificate of an analyzer expire while it runs: connections last, new ones are refused and say why,
// and a new certificate is all it takes.
func TestRootExpiredCertificate(t *testing.T) {
	l := newLab(t)
	an, h1 := addHost(t, l, "an"), addHost(t, l, "h1")
	pki := filepath.Join(an.Dir, "pki")
	_, err := an.Run(l.Binary, "tls", "init", "--dir", pki, "an="+an.IP, "h1="+h1.IP)
	need(t, err)
	section := func(h *Host) string {
		dir := filepath.Join(pki, h.Name)
		return fmt.Sprintf("tls: {ca_cert: %[1]s/ca.crt, server_cert: %[1]s/server.crt, server_key: %[1]s/server.key, client_cert: %[1]s/client.crt, client_key: %[1]s/client.key}\n", dir)
	}
	ends := time.Now().Add(12 * time.Second)
	shortLived(t, pki, filepath.Join(pki, "an"), an.IP, ends)
	analyzer, err := an.Start(fmt.Sprintf("%shost_id: an\nanalyzer: {listen: 0.0.0.0:8082}\netcd: {data_dir: %s/etcd}\n%s", section(an), an.Dir, quick), "analyzer")
	need(t, err)
	agent, err := h1.Start(section(h1)+"host_id: h1\nanalyzers: ["+an.analyzerAddr()+"]\nagent: {topology: {probes: []}}\n"+quick, "agent")
	need(t, err)
	trust := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	need(t, err)
	trust.AppendCertsFromPEM(ca)
	// Asks as somebody whose clock stands still: the certificate may be over.
	ask := func(at time.Time, path string) (string, error) {
		var text strings.Builder
		err := an.Within(func() error {
			client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: an.Dial, DisableKeepAlives: true,
				TLSClientConfig: &tls.Config{RootCAs: trust, Time: func() time.Time { return at }}}}
			res, err := client.Get("https://" + an.analyzerAddr() + path)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			return res.Write(&text)
		})
		return text.String(), err
	}
	connected := func(limit time.Duration) {
		t.Helper()
		need(t, Until(limit, func() error {
			text, err := ask(ends.Add(-time.Second), "/api/status")
			if err == nil && !strings.Contains(text, `"h1":{`) {
				err = fmt.Errorf("the agent is not connected: %s", text)
			}
			return analyzer.alive(err)
		}))
	}
	connected(10 * time.Second)
	need(t, Until(30*time.Second, func() error { // it says so itself
		text, err := ask(ends.Add(-time.Second), "/api/status")
		if err == nil && !strings.Contains(text, `"State":"expired"`) {
			err = fmt.Errorf("the certificate is over since %s, and the status does not tell", ends)
		}
		return err
	}))
	connected(time.Second)
	if _, err := ask(time.Now(), "/api"); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("a certificate that is over is believed: %v", err)
	}
	agent.Kill()
	agent, err = h1.Start(section(h1)+"host_id: h1\nanalyzers: ["+an.analyzerAddr()+"]\nagent: {topology: {probes: []}}\n"+quick, "agent")
	need(t, err)
	need(t, Until(10*time.Second, func() error {
		if out := agent.Output(); !strings.Contains(out, "expired") {
			return agent.alive(fmt.Errorf("the agent does not say why it is not connected: %s", tail(out, 3)))
		}
		return nil
	}))
	_, err = an.Run(l.Binary, "tls", "init", "--dir", pki, "--renew", "an="+an.IP)
	need(t, err)
	need(t, Until(40*time.Second, func() error {
		text, err := ask(time.Now(), "/api/status")
		if err == nil && !strings.Contains(text, `"h1":{`) {
			err = fmt.Errorf("the agent does not come back: %s", text)
		}
		return err
	}))
}

// shortLived replaces a server certificate by one that ends soon, of the same authority.
func shortLived(t *testing.T, pki, dir, ip string, ends time.Time) {
	t.Helper()
	authority, err := tls.LoadX509KeyPair(filepath.Join(pki, "ca.crt"), filepath.Join(pki, "ca.key"))
	need(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	need(t, err)
	cert, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "an"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: ends,
		IPAddresses: []net.IP{net.ParseIP(ip)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}, authority.Leaf, &key.PublicKey, authority.PrivateKey)
	need(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	need(t, err)
	for name, block := range map[string]*pem.Block{"server.crt": {Type: "CERTIFICATE", Bytes: cert}, "server.key": {Type: "PRIVATE KEY", Bytes: secret}} {
		need(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
}
