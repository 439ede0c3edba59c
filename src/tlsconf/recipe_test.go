package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ../e2e/testdata/seed/certificates.sh has the commands of the documentation, byte for byte; it runs where etc/skydive-openssl.cnf is.
func recipe(t *testing.T) (dir string, analyzer, agent Files) {
	t.Helper()
	dir = t.TempDir()
	conf, err := os.ReadFile("../../etc/skydive-openssl.cnf")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "skydive-openssl.cnf"), conf, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"analyzer", "agent"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	script, err := filepath.Abs("../e2e/testdata/seed/certificates.sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-e", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	analyzer = Files{
		CACert:     in("ca.domain.com.crt"),
		ServerCert: in("analyzer/analyzer.domain.com.crt"), ServerKey: in("analyzer/analyzer.domain.com.key"),
		ClientCert: in("agent/agent.domain.com.crt"), ClientKey: in("agent/agent.domain.com.key"),
	}
	return dir, analyzer, Files{CACert: analyzer.CACert, ClientCert: analyzer.ClientCert, ClientKey: analyzer.ClientKey}
}

func TestRecipe(t *testing.T) {
	dir, analyzer, agent := recipe(t)

	// The step that the recipe lacks: who follows it gets told.
	_, err := New(analyzer, slog.New(slog.DiscardHandler))
	want := "Failed to open root certificate '" + analyzer.CACert + "' : does not exist (these certificates sign themselves, so that they are the authorities: cat " +
		analyzer.ServerCert + " " + analyzer.ClientCert + " > " + analyzer.CACert + ")"
	if err == nil || err.Error() != want {
		t.Fatalf("got  %v\nwant %s", err, want)
	}
	_, missing, _ := strings.Cut(want, "authorities: ")
	if out, err := exec.Command("bash", "-ec", strings.TrimSuffix(missing, ")")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	if c := leafOf(t, analyzer.ServerCert); !c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment|x509.KeyUsageCertSign || usages(c) != "serverAuth, clientAuth" ||
		strings.Join(Names(c), " ") != "agent.domain.com analyzer.domain.com localhost 192.168.1.1 192.168.69.14 127.0.0.1" {
		t.Errorf("%v %v %s %q", c.IsCA, c.KeyUsage, usages(c), Names(c))
	}
	a, err := New(analyzer, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if w := status(a).Warnings; len(w) > 0 {
		t.Errorf("%q", w)
	}
	s := serve(t, a.Server())
	client := mustNew(t, agent).Client()
	for _, name := range []string{"analyzer.domain.com", "agent.domain.com", "localhost", "192.168.1.1", "192.168.69.14", "127.0.0.1"} {
		cert, err := s.call(t, client, name)
		if got := <-s.seen; err != nil || !got.verified || !strings.Contains(cert.Subject.String(), "CN=skydive-analyzer") {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
	for _, name := range []string{"other.domain.com", "domain.com", "skydive-analyzer", "10.0.0.1"} {
		if _, err := s.call(t, client, name); err == nil || !strings.Contains(err.Error(), "x509: certificate is") {
			t.Errorf("%s: %v", name, err)
		}
		<-s.seen
	}

	// Others of the same recipe are others, whatever they call themselves.
	_, stranger, _ := recipe(t)
	stranger.CACert = filepath.Join(dir, "strangers.crt")
	ours, _ := os.ReadFile(analyzer.CACert)
	theirs, _ := os.ReadFile(stranger.ServerCert)
	put(t, stranger.CACert, ours, theirs)
	if _, err := s.call(t, mustNew(t, stranger).Client(), "analyzer.domain.com"); err == nil || !strings.Contains(err.Error(), "remote error: tls: ") {
		t.Errorf("a stranger is let in: %v", err)
	}
	if got := <-s.seen; got.verified || got.err == nil {
		t.Errorf("%+v", got)
	}

	// The real openssl takes part as well.
	out, err := exec.Command("bash", "-c", "echo Q | openssl s_client -connect "+s.addr+" -verify_return_error -verify_hostname analyzer.domain.com -CAfile "+
		analyzer.CACert+" -cert "+agent.ClientCert+" -key "+agent.ClientKey).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Verification: OK") {
		t.Errorf("%v\n%s", err, out)
	}
	if got := <-s.seen; !got.verified {
		t.Errorf("%+v", got)
	}
}

// The other way round: a server of openssl with the certificate of the recipe.
func TestRecipeServer(t *testing.T) {
	_, analyzer, agent := recipe(t)
	var all []byte
	for _, file := range []string{analyzer.ServerCert, analyzer.ClientCert} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	put(t, analyzer.CACert, all)
	cmd := exec.Command("openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "1", "-Verify", "1", "-verify_return_error", "-CAfile", analyzer.CACert,
		"-cert", analyzer.ServerCert, "-key", analyzer.ServerKey)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // at its end openssl would hang up
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	addr := ""
	line, buffer := "", make([]byte, 1)
	for addr == "" {
		if _, err := out.Read(buffer); err != nil {
			t.Fatal(err)
		}
		if line += string(buffer); buffer[0] == '\n' {
			if at, ok := strings.CutPrefix(strings.TrimSpace(line), "ACCEPT "); ok {
				addr = at
			}
			line = ""
		}
	}
	config := mustNew(t, agent).Client()
	config.ServerName = "analyzer.domain.com"
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello from the agent\n")); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	got, err := io.ReadAll(out)
	if err != nil || !strings.Contains(string(got), "subject=CN = skydive-agent") && !strings.Contains(string(got), "CN=skydive-agent") || !strings.Contains(string(got), "hello from the agent") {
		t.Errorf("%v\n%s", err, got)
	}
}
