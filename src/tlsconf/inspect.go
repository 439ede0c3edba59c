package tlsconf

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Inspection is what a file holds.
type Inspection struct {
	File     string
	Contents []string // a line each
	Problem  string   // why no service can use it, as the rest of a sentence that begins with the file
}

// inspected is a file together with what else is needed to compare it with others.
type inspected struct {
	Inspection
	certs []*x509.Certificate
	key   crypto.Signer
}

// Inspect tells what files hold: certificates or a key, of which of the other files a key is, and who of the other files signed what.
func Inspect(files []string, now time.Time) []Inspection {
	all := make([]inspected, len(files))
	for i, file := range files {
		all[i] = inspect(file)
	}
	list := make([]Inspection, len(files))
	for i := range all {
		f := &all[i]
		for n, c := range f.certs {
			f.Contents = append(f.Contents, certificateLine(c, now))
			if by := signedBy(c, all); by != "" {
				f.Contents = append(f.Contents, "  signed by "+by)
			} else {
				f.Contents = append(f.Contents, "  signed by "+c.Issuer.String()+", who is in none of these files")
			}
			if n == 0 && f.Problem == "" {
				f.Problem = timeProblem(c, now)
			}
		}
		if f.key != nil {
			f.Contents = append(f.Contents, keyLine(f.key, all))
		}
		list[i] = f.Inspection
	}
	return list
}

func inspect(file string) inspected {
	f := inspected{Inspection: Inspection{File: file}}
	data, err := readFile(file)
	if err != nil {
		f.Problem = err.Error()
		return f
	}
	if strings.Contains(string(data), "PRIVATE KEY-----") {
		if f.key, err = parseKey(data); err != nil {
			f.Problem = err.Error()
		}
		return f
	}
	if f.certs, err = parseCertificates(data); err != nil {
		f.Problem = err.Error()
	}
	return f
}

func certificateLine(c *x509.Certificate, now time.Time) string {
	parts := []string{c.Subject.String(), keyKind(c.PublicKey)}
	if names := Names(c); len(names) > 0 {
		parts = append(parts, "for "+strings.Join(names, " "))
	}
	if c.IsCA {
		parts = append(parts, "an authority")
	}
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) > 0 {
		parts = append(parts, usages(c))
	}
	parts = append(parts, day(c.NotBefore)+" to "+day(c.NotAfter))
	if timeProblem(c, now) == "" {
		parts = append(parts, "ends in "+span(c.NotAfter.Sub(now)))
	}
	return strings.Join(parts, "; ")
}

func timeProblem(c *x509.Certificate, now time.Time) string {
	if err := usable(c, x509.ExtKeyUsageAny, now); err != nil && (now.After(c.NotAfter) || now.Before(c.NotBefore)) {
		return err.Error()
	}
	return ""
}

// signedBy names the file that holds who signed c.
func signedBy(c *x509.Certificate, all []inspected) string {
	if c.CheckSignatureFrom(c) == nil || c.Issuer.String() == c.Subject.String() {
		return "itself"
	}
	for _, f := range all {
		if slices.ContainsFunc(f.certs, func(a *x509.Certificate) bool { return c.CheckSignatureFrom(a) == nil }) {
			return f.File
		}
	}
	return ""
}

func keyLine(key crypto.Signer, all []inspected) string {
	line := "private key, " + keyKind(key.Public())
	for _, f := range all {
		if len(f.certs) > 0 && belongs(key, f.certs[0]) {
			return fmt.Sprintf("%s, of %s", line, f.File)
		}
	}
	return line + ", of none of these files"
}
