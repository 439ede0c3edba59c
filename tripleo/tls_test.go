package main

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

type secured struct{ url, ca string }

// newTLS serves the same undercloud with a certificate, for which ca vouches.
func newTLS(t *testing.T, u *undercloud) secured {
	server := httptest.NewTLSServer(u)
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return secured{server.URL, ca}
}

func marshal(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func errorsOf(all ...error) error { return errors.Join(all...) }
