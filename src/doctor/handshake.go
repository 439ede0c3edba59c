package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"skydive/src/tlsconf"
)

// shown is what both sides showed each other.
type shown struct {
	asked, offered bool     // the server asked for a certificate; it got one
	takes          []string // the authorities that it named
	state          tls.ConnectionState
}

// watch returns config for one handshake, during which s is filled in.
func (s *shown) watch(config *tls.Config, host string) *tls.Config {
	config = config.Clone()
	config.ServerName = host
	give := config.GetClientCertificate
	config.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		s.asked = true
		for _, raw := range r.AcceptableCAs {
			s.takes = append(s.takes, authorityName(raw))
		}
		if give == nil {
			return &tls.Certificate{}, nil
		}
		s.offered = true
		return give(r)
	}
	return config
}

// tls shakes hands and asks one question: only its answer shows that the server took the certificate.
func (v *visit) tls(ctx context.Context) bool {
	if v.CertificatesError != nil {
		return v.failed("tls", "the certificates of this host cannot be used", "see above")
	}
	encrypted := v.Options.tls() != nil
	a, err := v.ask(ctx, open)
	switch {
	case err == nil && !encrypted && a.StatusCode == http.StatusBadRequest && strings.Contains(a.text, "HTTPS"):
		return v.failed("tls", "the analyzer wants TLS, and no certificates are configured here", "set tls.ca_cert, tls.client_cert and tls.client_key; skydive tls init makes certificates")
	case err == nil && !encrypted:
		return v.skipped("tls", "not configured here, and not asked for there: the connection is not encrypted")
	case err == nil:
		return v.secured()
	case encrypted:
		return v.insecure(err)
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return v.failed("tls", fmt.Sprintf("it takes connections, but does not answer within %s", v.Timeout), "the analyzer hangs, or something else listens there, or wants TLS, for which no certificates are configured here")
	}
	return v.failed("tls", "no answer: "+err.Error(), noService)
}

func (v *visit) secured() bool {
	state := v.shown.state
	leaf := state.PeerCertificates[0]
	result := fmt.Sprintf("%s; the server is %s, until %s", tls.VersionName(state.Version), identity(leaf), leaf.NotAfter.Format(time.DateOnly))
	if chains := state.VerifiedChains; len(chains) > 0 {
		if root := chains[0][len(chains[0])-1]; !root.Equal(leaf) {
			result += ", signed by " + root.Subject.String()
		}
	}
	advice := ""
	switch {
	case !v.shown.asked:
		result += "; it asks for no certificate"
	case !v.shown.offered:
		result += "; it asked for a certificate and got none"
		advice = "agents and analyzers need one: set tls.client_cert and tls.client_key"
	default:
		result += "; it took our certificate"
	}
	if left := leaf.NotAfter.Sub(v.Clock()); left < 30*24*time.Hour {
		advice = fmt.Sprintf("the certificate of the server expires in %d days: renew it", int(left.Hours()/24))
	}
	return v.ok("tls", result, advice)
}

// insecure tells why there is no TLS.
func (v *visit) insecure(err error) bool {
	var unverified *tls.CertificateVerificationError
	var clear tls.RecordHeaderError
	alert := alertOf(err)
	switch {
	case errors.As(err, &unverified):
		return v.unverified(unverified)
	case errors.As(err, &clear):
		return v.failed("tls", "the server does not speak TLS", "set tls.server_cert, tls.server_key and tls.ca_cert there, or remove the section tls here")
	case alert != 0:
		return v.refused(alert)
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return v.failed("tls", fmt.Sprintf("the server takes the connection, but does not answer within %s", v.Timeout), "it hangs, or something else listens there")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return v.failed("tls", "the server closed the connection without an answer", "it does not speak TLS, or something in between ends it")
	}
	return v.failed("tls", err.Error(), "see the log of the analyzer")
}

// unverified tells what is wrong with the server's certificate.
func (v *visit) unverified(err *tls.CertificateVerificationError) bool {
	leaf := err.UnverifiedCertificates[0]
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	who := identity(leaf)
	switch {
	case errors.As(err.Err, &name):
		if len(tlsconf.Names(leaf)) == 0 {
			return v.failed("tls", "the certificate of the server ("+who+") has no subject alternative names, and the common name does not count", "make one with "+v.host+" among them: skydive tls init")
		}
		return v.failed("tls", fmt.Sprintf("the certificate of the server is not for %s, but for %s", v.host, strings.Join(tlsconf.Names(leaf), " ")),
			"write one of these names into analyzers, or make a certificate with "+v.host+" among its names: skydive tls init --renew HOST="+v.host)
	case errors.As(err.Err, &authority):
		known := strings.Join(v.authorities(), "; ")
		if leaf.Issuer.String() == leaf.Subject.String() {
			return v.failed("tls", fmt.Sprintf("the certificate of the server (%s) signs itself, and is not in tls.ca_cert here (%s)", who, known), "add it to the file: several may stand in one")
		}
		return v.failed("tls", fmt.Sprintf("the certificate of the server (%s) is signed by %s, who is not in tls.ca_cert here (%s)", who, leaf.Issuer, known),
			"copy the ca.crt of that authority here, or add it to the file: several may stand in one")
	case errors.As(err.Err, &invalid) && invalid.Reason == x509.Expired:
		bad := invalid.Cert
		now := v.Clock()
		if now.Before(bad.NotBefore) {
			return v.failed("tls", fmt.Sprintf("the certificate of the server (%s) is not valid before %s; here it is %s", identity(bad), bad.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)), "is the clock of this host right? timedatectl")
		}
		return v.failed("tls", fmt.Sprintf("the certificate of the server (%s) expired on %s; here it is %s", identity(bad), bad.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)), "renew it: skydive tls init --renew; the analyzer takes it into use by itself")
	case errors.As(err.Err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return v.failed("tls", "the certificate of the server ("+who+") is not for servers: its extended key usage lacks serverAuth", "make one that is: skydive tls init")
	}
	return v.failed("tls", "the certificate of the server ("+who+") is refused: "+err.Err.Error(), "")
}

// refused tells why the server takes no connection of ours. TLS has no words for it, only numbers.
func (v *visit) refused(alert tls.AlertError) bool {
	result := "the server refused: " + strings.TrimPrefix(alert.Error(), "tls: ")
	switch alert {
	case 42, 43, 45, 46, 48, 49: // bad, unsupported, expired, unknown certificate; unknown CA; access denied
		if !v.shown.offered {
			return v.failed("tls", result, "it wants a certificate: set tls.client_cert and tls.client_key")
		}
		advice := "it does not take the certificate of tls.client_cert: its authority must be in tls.ca_cert there"
		if len(v.shown.takes) > 0 {
			advice += ", where there are: " + strings.Join(v.shown.takes, "; ")
		}
		return v.failed("tls", result, advice+". The log there tells more; is its clock right?")
	case 116: // certificate required
		return v.failed("tls", result, "it wants a certificate of every client (tls.require_client_cert): set tls.client_cert and tls.client_key")
	case 70: // protocol version
		return v.failed("tls", result, "it speaks no TLS 1.2 or 1.3")
	case 40, 71: // handshake failure, insufficient security
		return v.failed("tls", result, "both sides have no cipher in common: ECDHE with AES-GCM is needed")
	}
	return v.failed("tls", result, "see the log of the analyzer")
}

// alertOf finds which alert the server sent, 0 for none; crypto/tls keeps the number to itself.
func alertOf(err error) tls.AlertError {
	if sent, ok := errors.AsType[*net.OpError](err); ok && sent.Op == "remote error" {
		for number := tls.AlertError(1); number < 255; number++ {
			if number.Error() == sent.Err.Error() {
				return number
			}
		}
	}
	return 0
}

func (v *visit) authorities() (list []string) {
	for _, c := range v.Certificates.Status().(tlsconf.Status).Certificates {
		if c.Use == "ca" && len(list) < 5 {
			list = append(list, c.Subject)
		}
	}
	return list
}

func identity(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return s
	}
	return strings.Join(tlsconf.Names(c), " ")
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}
