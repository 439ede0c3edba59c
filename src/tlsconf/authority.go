package tlsconf

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"regexp"
	"strings"
	"time"
)

// backdate lets a certificate be valid on hosts whose clock is behind.
const backdate = time.Hour

// Authority signs certificates.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes one with a key of its own; it may sign certificates, not authorities.
func NewAuthority(now time.Time, life time.Duration) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return nil, fmt.Errorf("make name: %w", err)
	}
	template := &x509.Certificate{
		// Two authorities must not have the same name: the wrong one would be tried.
		Subject:   pkix.Name{Organization: []string{"Skydive"}, CommonName: "Skydive CA " + hex.EncodeToString(id)},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &Authority{cert, key}, nil
}

// ParseAuthority reads one.
func ParseAuthority(certPEM, keyPEM []byte, now time.Time) (*Authority, error) {
	certs, err := parseCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("key %w", err)
	}
	cert := certs[0]
	switch {
	case !belongs(key, cert):
		return nil, errors.New("the key does not belong to the certificate")
	case !cert.IsCA || cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("the certificate may not sign others: it is not one of an authority")
	case now.After(cert.NotAfter):
		return nil, fmt.Errorf("it expired on %s", day(cert.NotAfter))
	}
	return &Authority{cert, key}, nil
}

// PEM returns the certificate and the key.
func (a *Authority) PEM() (cert, key []byte, _ error) {
	key, err := keyPEM(a.key)
	return certPEM(a.cert), key, err
}

// Host is whom a certificate is for: a name or an address, and what else it is reached by.
type Host struct {
	Name  string
	Names []string
}

// hostName is what DNS allows, in letters of any case, with the _ that many use.
var hostName = regexp.MustCompile(`^(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*$`)

func validName(s string) bool {
	return net.ParseIP(s) != nil || len(s) <= 253 && hostName.MatchString(s)
}

// ParseHost reads NAME or NAME=ALSO,ALSO… .
func ParseHost(s string) (Host, error) {
	name, also, given := strings.Cut(s, "=")
	h := Host{Name: name}
	if given {
		h.Names = strings.Split(also, ",")
	}
	if !validName(name) || strings.HasPrefix(name, "*") {
		return Host{}, fmt.Errorf("%q is neither the name of a host nor an address", name)
	}
	for _, n := range h.Names {
		if !validName(n) {
			return Host{}, fmt.Errorf("%s: %q is neither a name nor an address", name, n)
		}
	}
	return h, nil
}

// all names of the host, its own first, without repetition.
func (h Host) all() (dns []string, ips []net.IP) {
	seen := map[string]bool{}
	for _, n := range append(append([]string{h.Name}, h.Names...), "localhost", "127.0.0.1", "::1") {
		ip := net.ParseIP(n)
		if ip != nil {
			n = ip.String()
		}
		n = strings.ToLower(n)
		if seen[n] {
			continue
		}
		seen[n] = true
		if ip != nil {
			ips = append(ips, ip)
		} else {
			dns = append(dns, n)
		}
	}
	return dns, ips
}

// Issue makes a certificate with a key of its own, for a server, which may then also be a client as the members of an etcd cluster are,
// or for a client alone. It never outlives the authority.
func (a *Authority) Issue(h Host, server bool, now time.Time, life time.Duration) (cert, key []byte, _ error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{Organization: []string{"Skydive"}, CommonName: h.Name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(h.Name) > 64 {
		template.Subject.CommonName = h.Name[:64] // X.509 knows no longer ones; clients look at the alternative names
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	template.DNSNames, template.IPAddresses = h.all()
	if server {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	signed, err := sign(template, a.cert, private.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	key, err = keyPEM(private)
	return certPEM(signed), key, err
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
