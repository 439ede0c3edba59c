package tlsconf

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// openssl runs the real one.
func openssl(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// der is what a PEM file holds.
func der(data []byte) []byte {
	block, _ := pem.Decode(data)
	return block.Bytes
}

// Each file is broken in turn: the error names it and the reason, in the words that people look for.
func TestBrokenFiles(t *testing.T) {
	ca := authority(t)
	ago := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-72 * time.Hour) }
	const opening = "Can't read X509 key pair set in config : cert '{server.crt}' key '{server.key}' : "
	for _, tc := range []struct {
		what  string
		spoil func(t *testing.T, f Files)
		want  string // {name} is the path of the file
	}{
		{"certificate missing", func(t *testing.T, f Files) { os.Remove(f.ServerCert) }, opening + "{server.crt} does not exist"},
		{"key missing", func(t *testing.T, f Files) { os.Remove(f.ServerKey) }, opening + "{server.key} does not exist"},
		{"directory", func(t *testing.T, f Files) { os.Remove(f.ServerCert); _ = os.Mkdir(f.ServerCert, 0o700) }, opening + "{server.crt} is a directory"},
		{"pipe", func(t *testing.T, f Files) { os.Remove(f.ServerKey); _ = syscall.Mkfifo(f.ServerKey, 0o600) }, opening + "{server.key} is not a regular file"},
		{"empty", func(t *testing.T, f Files) { put(t, f.ServerCert, []byte("\n\n")) }, opening + "{server.crt} is empty"},
		{"endless", func(t *testing.T, f Files) { put(t, f.ServerCert, bytes.Repeat([]byte("x"), maxFile+1)) }, opening + "{server.crt} is larger than 1048576 bytes"},
		{"garbage", func(t *testing.T, f Files) { put(t, f.ServerCert, []byte("hello")) }, opening + "{server.crt} is not PEM: there is no line -----BEGIN"},
		{"garbage key", func(t *testing.T, f Files) { put(t, f.ServerKey, []byte("hello")) }, opening + "{server.key} is not PEM"},
		{"garbage inside", func(t *testing.T, f Files) {
			put(t, f.ServerCert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("hello")}))
		}, opening + "{server.crt} holds a certificate (number 1) that cannot be read: x509: malformed certificate"},
		{"garbage inside the key", func(t *testing.T, f Files) {
			put(t, f.ServerKey, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("hello")}))
		}, opening + "{server.key} holds a private key that cannot be read: "},
		{"cut off", func(t *testing.T, f Files) {
			data, _ := os.ReadFile(f.ServerCert)
			put(t, f.ServerCert, data[:len(data)/2])
		}, opening + "{server.crt} is not PEM: there is no line -----BEGIN …-----, or what follows it is damaged"},
		{"DER", func(t *testing.T, f Files) {
			data, _ := os.ReadFile(f.ServerCert)
			put(t, f.ServerCert, der(data))
		}, opening + "{server.crt} is in DER, not PEM: openssl x509 -inform DER -in OLD -out NEW"},
		{"DER key", func(t *testing.T, f Files) {
			data, _ := os.ReadFile(f.ServerKey)
			put(t, f.ServerKey, der(data))
		}, opening + "{server.key} is in DER, not PEM: openssl pkey"},
		{"mixed up", func(t *testing.T, f Files) {
			cert, _ := os.ReadFile(f.ServerCert)
			key, _ := os.ReadFile(f.ServerKey)
			put(t, f.ServerCert, key)
			put(t, f.ServerKey, cert)
		}, opening + "{server.crt} holds a private key and no certificate: were the two files mixed up?"},
		{"certificate as key", func(t *testing.T, f Files) {
			cert, _ := os.ReadFile(f.ServerCert)
			put(t, f.ServerKey, cert)
		}, opening + "{server.key} holds CERTIFICATE and no private key: were the two files mixed up?"},
		{"request", func(t *testing.T, f Files) {
			openssl(t, "req", "-new", "-key", f.ServerKey, "-subj", "/CN=h1", "-out", f.ServerCert)
		}, opening + "{server.crt} holds a request for a certificate, which an authority has yet to sign"},
		{"encrypted key", func(t *testing.T, f Files) {
			openssl(t, "pkey", "-in", f.ServerKey, "-aes256", "-passout", "pass:secret", "-out", f.ServerKey+".new")
			_ = os.Rename(f.ServerKey+".new", f.ServerKey)
		}, opening + "{server.key} is encrypted, and a service cannot ask for the passphrase: openssl pkey -in OLD -out NEW"},
		{"encrypted key of old", func(t *testing.T, f Files) {
			openssl(t, "genrsa", "-traditional", "-aes128", "-passout", "pass:secret", "-out", f.ServerKey, "2048")
		}, opening + "{server.key} is encrypted"},
		{"wrong key", func(t *testing.T, f Files) {
			_, key := pair(t, ca, nil)
			put(t, f.ServerKey, key)
		}, opening + "{server.key} does not belong to the certificate: it is the key of another one"},
		{"RSA key of an ECDSA certificate", func(t *testing.T, f Files) { openssl(t, "genrsa", "-out", f.ServerKey, "2048") }, opening + "{server.key} does not belong"},
		{"wrong order", func(t *testing.T, f Files) {
			data, _ := os.ReadFile(f.ServerCert)
			put(t, f.ServerCert, certPEM(ca.cert), data)
		}, opening + "{server.crt} has the certificate that belongs to the key behind another one: it must be the first"},
		{"expired", func(t *testing.T, f Files) {
			cert, key := pair(t, ca, ago)
			put(t, f.ServerCert, cert)
			put(t, f.ServerKey, key)
		}, opening + "{server.crt} expired on " + time.Now().Add(-72*time.Hour).UTC().Format(time.DateOnly)},
		{"days ago", func(t *testing.T, f Files) {
			cert, key := pair(t, ca, ago)
			put(t, f.ServerCert, cert)
			put(t, f.ServerKey, key)
		}, ", 3 days ago"},
		{"not yet valid", func(t *testing.T, f Files) {
			cert, key := pair(t, ca, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })
			put(t, f.ServerCert, cert)
			put(t, f.ServerKey, key)
		}, "{server.crt} is not valid before " + time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:")},
		{"server without serverAuth", func(t *testing.T, f Files) {
			cert, key := pair(t, ca, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })
			put(t, f.ServerCert, cert)
			put(t, f.ServerKey, key)
		}, opening + "{server.crt} is not for this use: its extended key usage is clientAuth, and serverAuth is missing"},
		{"client without clientAuth", func(t *testing.T, f Files) {
			cert, key := pair(t, ca, func(c *x509.Certificate) {
				c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageCodeSigning}
			})
			put(t, f.ClientCert, cert)
			put(t, f.ClientKey, key)
		}, "cert '{client.crt}' key '{client.key}' : {client.crt} is not for this use: its extended key usage is serverAuth, number 3, and clientAuth is missing"},
		{"CA missing", func(t *testing.T, f Files) { os.Remove(f.CACert) }, "Failed to open root certificate '{ca.crt}' : does not exist"},
		{"CA directory", func(t *testing.T, f Files) { os.Remove(f.CACert); _ = os.Mkdir(f.CACert, 0o700) }, "Failed to open root certificate '{ca.crt}' : is a directory"},
		{"CA garbage", func(t *testing.T, f Files) { put(t, f.CACert, []byte("hello")) }, "Failed to parse root certificate '{ca.crt}' : is not PEM"},
		{"CA key", func(t *testing.T, f Files) {
			_, key, _ := ca.PEM()
			put(t, f.CACert, key)
		}, "Failed to parse root certificate '{ca.crt}' : holds a private key and no certificate"},
		{"CA partly garbage", func(t *testing.T, f Files) {
			put(t, f.CACert, certPEM(ca.cert), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("hello")}))
		}, "Failed to parse root certificate '{ca.crt}' : holds a certificate (number 2) that cannot be read"},
		{"CA expired", func(t *testing.T, f Files) {
			cert, _ := pair(t, nil, func(c *x509.Certificate) { ago(c); c.IsCA, c.BasicConstraintsValid = true, true })
			put(t, f.CACert, cert)
		}, "Failed to parse root certificate '{ca.crt}' : it expired on "},
		{"everything at once", func(t *testing.T, f Files) {
			for _, file := range []string{f.CACert, f.ServerCert, f.ClientKey} {
				os.Remove(file)
			}
		}, "{ca.crt}' : does not exist\n" + opening + "{server.crt} does not exist\nCan't read X509 key pair set in config : cert '{client.crt}' key '{client.key}' : {client.key} does not exist"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			f := filesIn(t, ca)
			tc.spoil(t, f)
			c, err := New(f, slog.New(slog.DiscardHandler))
			want := strings.NewReplacer("{ca.crt}", f.CACert, "{server.crt}", f.ServerCert, "{server.key}", f.ServerKey, "{client.crt}", f.ClientCert, "{client.key}", f.ClientKey).Replace(tc.want)
			if c != nil || err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("\ngot  %v\nwant %s", err, want)
			}
		})
	}
}

// asNobody runs f without the right to read everything.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0); errno != 0 {
			t.Errorf("setfsuid: %v", errno)
			return
		}
		f()
	}()
	<-done
}

func TestUnreadable(t *testing.T) {
	f := filesIn(t, authority(t))
	for dir := filepath.Dir(f.CACert); dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{f.CACert, f.ServerCert, f.ClientCert, f.ClientKey} {
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(f.ServerKey, 0o200); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		_, err := New(f, slog.New(slog.DiscardHandler))
		if want := f.ServerKey + " cannot be read by this user (uid "; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "): its mode is 0200, it belongs to uid ") || !errors.Is(err, fs.ErrPermission) {
			t.Errorf("got %v, want %s", err, want)
		}
	})
	if err := os.Chmod(filepath.Dir(f.CACert), 0o200); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		_, err := New(f, slog.New(slog.DiscardHandler))
		if want := "Failed to open root certificate '" + f.CACert + "' : cannot be read by this user (uid "; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "nor can its directory") {
			t.Errorf("got %v, want %s", err, want)
		}
	})
	_ = os.Chmod(filepath.Dir(f.CACert), 0o755)
}

// What works, but not everywhere, is spoken of and does not keep a service from starting.
func TestWarnings(t *testing.T) {
	ca, foreign := authority(t), authority(t)
	for _, tc := range []struct {
		what   string
		change func(t *testing.T, f Files)
		want   string
	}{
		{"nothing", func(*testing.T, Files) {}, ""},
		{"wrong CA", func(t *testing.T, f Files) { put(t, f.CACert, certPEM(foreign.cert)) },
			`{server.crt} was signed by "CN=` + ca.cert.Subject.CommonName + `,O=Skydive", who is not in {ca.crt}: peers that have the same file refuse it`},
		{"signs itself", func(t *testing.T, f Files) {
			cert, key := pair(t, nil, nil)
			put(t, f.ServerCert, cert)
			put(t, f.ServerKey, key)
		}, "{server.crt} signs itself and is not in {ca.crt}: peers that have the same file refuse it; cat {server.crt} >> {ca.crt}"},
		{"no names", func(t *testing.T, f Files) {
			cert, key := pair(t, ca, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = nil, nil })
			put(t, f.ServerCert, cert)
			put(t, f.ServerKey, key)
		}, "{server.crt} has no subject alternative name, so that no client takes it for any host: the common name does not count"},
		{"everybody's key", func(t *testing.T, f Files) { _ = os.Chmod(f.ServerKey, 0o604) }, "the private key {server.key} can be read by every user of this host: chmod o= {server.key}"},
		{"one authority of two expired", func(t *testing.T, f Files) {
			cert, _ := pair(t, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
			put(t, f.CACert, certPEM(ca.cert), cert)
		}, "an authority in {ca.crt} expired on "},
		{"an authority that may not sign for this", func(t *testing.T, f Files) {
			limited, key := pair(t, nil, func(c *x509.Certificate) {
				c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
				c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"example.org"}
				c.Subject.CommonName = "limited"
				c.DNSNames, c.IPAddresses = nil, nil
			})
			a, err := ParseAuthority(limited, key, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			put(t, f.CACert, limited)
			cert, key := pair(t, a, func(c *x509.Certificate) { c.IPAddresses = []net.IP{} })
			put(t, f.ServerCert, cert)
			put(t, f.ServerKey, key)
		}, "{server.crt}: peers that have the same {ca.crt} refuse it: x509: "},
	} {
		t.Run(tc.what, func(t *testing.T) {
			f := filesIn(t, ca)
			tc.change(t, f)
			log, logger := newJournal()
			c, err := New(f, logger)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.NewReplacer("{ca.crt}", f.CACert, "{server.crt}", f.ServerCert, "{server.key}", f.ServerKey).Replace(tc.want)
			got := strings.Join(status(c).Warnings, "\n")
			if want == "" && (got != "" || len(log.lines) > 0) || !strings.Contains(got, want) {
				t.Errorf("\ngot  %s\nwant %s", got, want)
			}
			if want != "" && log.count("level=WARN") == 0 {
				t.Errorf("not in the log: %q", log.lines)
			}
		})
	}
}

// The chain of an intermediate authority is in the file, behind the certificate.
func TestChain(t *testing.T) {
	root := authority(t)
	cert, key := pair(t, root, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage, c.Subject.CommonName = true, true, x509.KeyUsageCertSign, nil, "middle"
	})
	// The authority of this package signs no others; this one is made by hand.
	long := *root.cert
	long.MaxPathLen, long.MaxPathLenZero = -1, false
	signed, err := sign(&long, &long, root.key.Public(), root.key)
	if err != nil {
		t.Fatal(err)
	}
	middle, err := ParseAuthority(cert, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	f := filesIn(t, middle)
	put(t, f.CACert, certPEM(signed))
	for _, file := range []string{f.ServerCert, f.ClientCert} {
		leaf, _ := os.ReadFile(file)
		put(t, file, leaf, cert)
	}
	c := mustNew(t, f)
	if w := status(c).Warnings; len(w) > 0 {
		t.Errorf("%q", w)
	}
	s := serve(t, c.Server())
	if _, err := s.call(t, c.Client(), "h1"); err != nil || !(<-s.seen).verified {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	cert, key := pair(f, nil, nil)
	for _, seed := range [][]byte{cert, key, der(cert), append(key, cert...), []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), nil} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if certs, err := parseCertificates(data); (err == nil) == (len(certs) == 0) {
			t.Errorf("%d certificates, %v", len(certs), err)
		}
		if key, err := parseKey(data); (err == nil) == (key == nil) {
			t.Errorf("%v, %v", key, err)
		}
	})
}
