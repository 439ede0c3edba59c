package tlsconf

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// maxFile bounds a file, in bytes; the bundles of systems have a quarter of it.
const maxFile = 1 << 20

// Certificate describes one that is in use.
type Certificate struct {
	Use         string // ca, server or client
	File        string
	Subject     string
	Issuer      string
	Names       []string `json:",omitempty"` // subject alternative names
	NotBefore   time.Time
	NotAfter    time.Time
	Fingerprint string // SHA-256
}

func describe(use, file string, c *x509.Certificate) Certificate {
	sum := sha256.Sum256(c.Raw)
	return Certificate{Use: use, File: file, Subject: c.Subject.String(), Issuer: c.Issuer.String(), Names: Names(c),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, Fingerprint: hex.EncodeToString(sum[:])}
}

// Names are the subject alternative names that a server can be reached by.
func Names(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// maxListed is how many authorities the status shows.
const maxListed = 20

// snapshot is what was read at once, and is good.
type snapshot struct {
	server, client *tls.Certificate // nil: not configured
	config         *tls.Config      // of the server, nil without
	roots          *x509.CertPool
	authorities    []*x509.Certificate
	list           []Certificate
	warnings       []string
}

// first is the own certificate, or the only authority, that ends first.
func (s *snapshot) first() (first Certificate) {
	for _, c := range s.list {
		if (c.Use != "ca" || len(s.authorities) == 1) && (first.File == "" || c.NotAfter.Before(first.NotAfter)) {
			first = c
		}
	}
	return first
}

func (s *snapshot) summary() string {
	var list []string
	for _, c := range s.list {
		list = append(list, fmt.Sprintf("%s %s %s until %s", c.Use, c.File, c.Fingerprint[:16], c.NotAfter.Format(time.DateOnly)))
	}
	return strings.Join(list, ", ")
}

// read reads all files and tells why they cannot be used, as complete as possible.
func read(f Files, now time.Time) (*snapshot, error) {
	s := &snapshot{}
	errs := []error{s.readAuthorities(f, now)}
	var err error
	if f.ServerCert != "" {
		s.server, err = s.readPair("server", f.ServerCert, f.ServerKey, x509.ExtKeyUsageServerAuth, now)
		errs = append(errs, err)
	}
	if f.ClientCert != "" {
		s.client, err = s.readPair("client", f.ClientCert, f.ClientKey, x509.ExtKeyUsageClientAuth, now)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s.doubt(f.CACert, f.ServerCert, s.server, x509.ExtKeyUsageServerAuth, now)
	s.doubt(f.CACert, f.ClientCert, s.client, x509.ExtKeyUsageClientAuth, now)
	return s, nil
}

func (s *snapshot) readAuthorities(f Files, now time.Time) error {
	data, err := readFile(f.CACert)
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = f.selfSignedHint()
		}
		return fmt.Errorf("Failed to open root certificate '%s' : %w%s", f.CACert, err, hint)
	}
	certs, err := parseCertificates(data)
	if err != nil {
		return fmt.Errorf("Failed to parse root certificate '%s' : %w", f.CACert, err)
	}
	s.roots, s.authorities = x509.NewCertPool(), certs
	usable := 0
	for _, c := range certs {
		s.roots.AddCert(c)
		if len(s.list) < maxListed {
			s.list = append(s.list, describe("ca", f.CACert, c))
		}
		if now.After(c.NotAfter) {
			s.warnings = append(s.warnings, fmt.Sprintf("an authority in %s expired on %s: %s", f.CACert, day(c.NotAfter), c.Subject))
			continue
		}
		usable++
	}
	if usable == 0 {
		return fmt.Errorf("Failed to parse root certificate '%s' : it expired on %s", f.CACert, day(certs[0].NotAfter))
	}
	return nil
}

// selfSignedHint tells how the file of the authorities is made of certificates that sign themselves: nobody hands one out with those.
func (f Files) selfSignedHint() string {
	var files []string
	for _, file := range []string{f.ServerCert, f.ClientCert} {
		data, err := readFile(file)
		if err != nil {
			continue
		}
		if certs, err := parseCertificates(data); err == nil && bytes.Equal(certs[0].RawIssuer, certs[0].RawSubject) {
			files = append(files, file)
		}
	}
	if len(files) == 0 {
		return ""
	}
	return fmt.Sprintf(" (these certificates sign themselves, so that they are the authorities: cat %s > %s)", strings.Join(files, " "), f.CACert)
}

func (s *snapshot) readPair(use, certFile, keyFile string, usage x509.ExtKeyUsage, now time.Time) (_ *tls.Certificate, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("Can't read X509 key pair set in config : cert '%s' key '%s' : %w", certFile, keyFile, err)
		}
	}()
	certPEM, err := readFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("%s %w", certFile, err)
	}
	keyPEM, err := readFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("%s %w", keyFile, err)
	}
	certs, err := parseCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("%s %w", certFile, err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s %w", keyFile, err)
	}
	leaf := certs[0]
	if !belongs(key, leaf) {
		for _, other := range certs[1:] {
			if belongs(key, other) {
				return nil, fmt.Errorf("%s has the certificate that belongs to the key behind another one: it must be the first", certFile)
			}
		}
		return nil, fmt.Errorf("%s does not belong to the certificate: it is the key of another one", keyFile)
	}
	if err := usable(leaf, usage, now); err != nil {
		return nil, fmt.Errorf("%s %w", certFile, err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be used: %w", certFile, err)
	}
	pair.Leaf = leaf
	s.list = append(s.list, describe(use, certFile, leaf))
	if info, err := os.Stat(keyFile); err == nil && info.Mode()&0o007 != 0 {
		s.warnings = append(s.warnings, fmt.Sprintf("the private key %s can be read by every user of this host: chmod o= %s", keyFile, keyFile))
	}
	return &pair, nil
}

// usable tells whether a certificate can be used now and for this.
func usable(c *x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	if now.After(c.NotAfter) {
		return fmt.Errorf("expired on %s, %s ago", c.NotAfter.UTC().Format(time.RFC3339), span(now.Sub(c.NotAfter)))
	}
	if now.Before(c.NotBefore) {
		return fmt.Errorf("is not valid before %s; the clock of this host says %s", c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 && !slices.Contains(c.ExtKeyUsage, usage) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
		return fmt.Errorf("is not for this use: its extended key usage is %s, and %s is missing", usages(c), usageName(usage))
	}
	return nil
}

// doubt warns of what only some peers would take.
func (s *snapshot) doubt(caFile, file string, pair *tls.Certificate, usage x509.ExtKeyUsage, now time.Time) {
	if pair == nil {
		return
	}
	if usage == x509.ExtKeyUsageServerAuth && len(Names(pair.Leaf)) == 0 {
		s.warnings = append(s.warnings, fmt.Sprintf("%s has no subject alternative name, so that no client takes it for any host: the common name does not count", file))
	}
	intermediates := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			intermediates.AddCert(c)
		}
	}
	_, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: s.roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown) && bytes.Equal(pair.Leaf.RawIssuer, pair.Leaf.RawSubject):
		s.warnings = append(s.warnings, fmt.Sprintf("%s signs itself and is not in %s: peers that have the same file refuse it; cat %s >> %s", file, caFile, file, caFile))
	case errors.As(err, &unknown):
		s.warnings = append(s.warnings, fmt.Sprintf("%s was signed by %q, who is not in %s: peers that have the same file refuse it", file, pair.Leaf.Issuer, caFile))
	case err != nil:
		s.warnings = append(s.warnings, fmt.Sprintf("%s: peers that have the same %s refuse it: %v", file, caFile, err))
	}
}

// readFile says what is wrong as the rest of a sentence that begins with the name of the file.
func readFile(file string) ([]byte, error) {
	info, err := os.Stat(file) // not opened blindly: a pipe would wait for ever
	if err == nil {
		switch {
		case info.IsDir():
			return nil, errors.New("is a directory")
		case !info.Mode().IsRegular():
			return nil, errors.New("is not a regular file")
		case info.Size() > maxFile:
			return nil, fmt.Errorf("is larger than %d bytes", maxFile)
		}
		var f *os.File
		if f, err = os.Open(file); err == nil {
			defer f.Close()
			var data []byte
			if data, err = io.ReadAll(io.LimitReader(f, maxFile)); err == nil && len(bytes.TrimSpace(data)) == 0 {
				return nil, errors.New("is empty")
			}
			if err == nil {
				return data, nil
			}
		}
	}
	return nil, unreadable(info, err)
}

func unreadable(info fs.FileInfo, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return reason{"does not exist", err}
	case errors.Is(err, fs.ErrPermission):
		text := fmt.Sprintf("cannot be read by this user (uid %d)", os.Geteuid())
		if info != nil {
			text += fmt.Sprintf(": its mode is %04o", info.Mode().Perm())
			if sys, ok := info.Sys().(*syscall.Stat_t); ok {
				text += fmt.Sprintf(", it belongs to uid %d, gid %d", sys.Uid, sys.Gid)
			}
		} else {
			text += ": nor can its directory"
		}
		return reason{text, err}
	}
	return reason{"cannot be read: " + err.Error(), err}
}

// reason gives an error other words.
type reason struct {
	text string
	err  error
}

func (r reason) Error() string { return r.text }
func (r reason) Unwrap() error { return r.err }

// parseCertificates reads all certificates of a PEM file.
func parseCertificates(data []byte) (certs []*x509.Certificate, _ error) {
	var other []string
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			other = append(other, block.Type)
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("holds a certificate (number %d) that cannot be read: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	switch {
	case len(certs) > 0:
		return certs, nil
	case slices.ContainsFunc(other, func(kind string) bool { return strings.HasSuffix(kind, "PRIVATE KEY") }):
		return nil, errors.New("holds a private key and no certificate: were the two files mixed up?")
	case slices.Contains(other, "CERTIFICATE REQUEST"):
		return nil, errors.New("holds a request for a certificate, which an authority has yet to sign")
	case len(other) > 0:
		return nil, fmt.Errorf("holds %s and no certificate", strings.Join(other, ", "))
	}
	return nil, noPEM(data, "x509")
}

func noPEM(data []byte, tool string) error {
	if len(data) > 1 && data[0] == 0x30 && data[1]&0x80 != 0 {
		return fmt.Errorf("is in DER, not PEM: openssl %s -inform DER -in OLD -out NEW", tool)
	}
	return errors.New("is not PEM: there is no line -----BEGIN …-----, or what follows it is damaged")
}

// parseKey reads the private key of a PEM file.
func parseKey(data []byte) (crypto.Signer, error) {
	var other []string
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			if block.Type != "EC PARAMETERS" {
				other = append(other, block.Type)
			}
			continue
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return nil, errors.New("is encrypted, and a service cannot ask for the passphrase: openssl pkey -in OLD -out NEW")
		}
		var key any
		var err error
		switch block.Type {
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		}
		if err != nil {
			return nil, fmt.Errorf("holds a private key that cannot be read: %w", err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("holds a key that cannot sign (%T)", key)
		}
		return signer, nil
	}
	if len(other) > 0 {
		return nil, fmt.Errorf("holds %s and no private key: were the two files mixed up?", strings.Join(other, ", "))
	}
	return nil, noPEM(data, "pkey")
}

func belongs(key crypto.Signer, c *x509.Certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}

// keyKind names an algorithm and its size.
func keyKind(public crypto.PublicKey) string {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	}
	return strings.TrimPrefix(strings.TrimSuffix(fmt.Sprintf("%T", public), ".PublicKey"), "*")
}

func usages(c *x509.Certificate) string {
	var names []string
	for _, u := range c.ExtKeyUsage {
		names = append(names, usageName(u))
	}
	for _, id := range c.UnknownExtKeyUsage {
		names = append(names, id.String())
	}
	return strings.Join(names, ", ")
}

func usageName(u x509.ExtKeyUsage) string {
	switch u {
	case x509.ExtKeyUsageAny:
		return "any"
	case x509.ExtKeyUsageServerAuth:
		return "serverAuth"
	case x509.ExtKeyUsageClientAuth:
		return "clientAuth"
	}
	return fmt.Sprintf("number %d", u)
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// span is a time in words, as exact as anybody cares for.
func span(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// mark tells whether a file changed, its mode and owner included; the zero mark is a file that is not there.
type mark struct {
	device, inode   uint64
	size            int64
	changed, edited syscall.Timespec
}

// marks of the files in the order of Files.
type marks [5]mark

func marksOf(f Files) (all marks) {
	for i, file := range []string{f.CACert, f.ServerCert, f.ServerKey, f.ClientCert, f.ClientKey} {
		var st syscall.Stat_t
		if file != "" && syscall.Stat(file, &st) == nil { // links are followed: that is how Kubernetes replaces files
			all[i] = mark{st.Dev, st.Ino, st.Size, st.Ctim, st.Mtim}
		}
	}
	return all
}
