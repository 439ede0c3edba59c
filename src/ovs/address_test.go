package ovs

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
)

// TestNamesAreLeftOutForOwnAuthoritiesOnly: whoever has a certificate of a public authority is no database.
func TestNamesAreLeftOutForOwnAuthoritiesOnly(t *testing.T) {
	if cfg := chainOnly(&tls.Config{}); cfg.InsecureSkipVerify {
		t.Error("with the authorities of the system, any name will do")
	}
	if cfg := chainOnly(&tls.Config{RootCAs: x509.NewCertPool()}); !cfg.InsecureSkipVerify || cfg.VerifyConnection == nil {
		t.Error("with authorities of our own, a name is wanted")
	}
}
