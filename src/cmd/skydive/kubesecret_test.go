package main

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// apiServer answers for one Secret as Kubernetes does; containers/kubernetes/tests has a real one.
type apiServer struct {
	data     map[string][]byte
	revision int
	race     func() // between reading and writing
	patches  int
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func(code int, reason string) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": reason})
	}
	if r.URL.Path != "/api/v1/namespaces/net/secrets/s" || r.Header.Get("Authorization") != "Bearer let-me" {
		refuse(http.StatusForbidden, "secrets is forbidden")
		return
	}
	switch r.Method {
	case http.MethodGet:
		_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]string{"resourceVersion": fmt.Sprint(s.revision)}, "data": s.data})
		if s.race != nil {
			s.race()
		}
	case http.MethodPatch:
		var change secretObject
		if err := json.NewDecoder(r.Body).Decode(&change); err != nil || r.Header.Get("Content-Type") != "application/merge-patch+json" {
			refuse(http.StatusBadRequest, "not a patch")
		} else if change.Metadata.ResourceVersion != fmt.Sprint(s.revision) {
			refuse(http.StatusConflict, "the object has been modified")
		} else {
			maps.Copy(s.data, change.Data)
			s.revision++
			s.patches++
			fmt.Fprintln(w, "{}")
		}
	}
}

func TestKubeSecret(t *testing.T) {
	for _, tc := range []struct {
		name       string
		data       map[string][]byte
		race       bool
		token      string
		args       string
		want, gets string // what is printed; a key that must have got a value
	}{
		{name: "new", data: map[string][]byte{}, args: "s a b a", want: "secret s: a, b added\n", gets: "b"},
		{name: "one is missing", data: map[string][]byte{"a": []byte("mine"), "x": []byte("y")}, args: "s a b", want: "secret s: b added\n", gets: "b"},
		{name: "empty is missing", data: map[string][]byte{"a": []byte("mine"), "b": {}}, args: "s b", want: "secret s: b added\n", gets: "b"},
		{name: "all there", data: map[string][]byte{"a": []byte("mine")}, args: "s a", want: "secret s: nothing added\n"},
		{name: "somebody else was faster", data: map[string][]byte{"a": []byte("mine")}, race: true, args: "s b", want: "Error: secret s of namespace net: 409 Conflict: the object has been modified\n"},
		{name: "forbidden", token: "wrong", args: "s a", want: "Error: secret s of namespace net: 403 Forbidden: secrets is forbidden\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &apiServer{data: tc.data, revision: 7}
			if tc.race {
				s.race = func() { s.revision++ }
			}
			server := httptest.NewTLSServer(s)
			defer server.Close()
			account := t.TempDir()
			authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
			for file, text := range map[string]string{"token": tc.token + "let-me\n", "namespace": "net", "ca.crt": string(authority)} {
				if err := os.WriteFile(filepath.Join(account, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			host, port, _ := net.SplitHostPort(server.Listener.Addr().String())
			pod := []string{"KUBERNETES_SERVICE_HOST=" + host, "KUBERNETES_SERVICE_PORT=" + port}
			r := skydive(t, pod, "", append([]string{"skydive", "kube-secret", "--service-account", account}, strings.Fields(tc.args)...)...)
			if got := r.stdout + r.stderr; got != tc.want || (r.code == 0) == strings.HasPrefix(tc.want, "Error") {
				t.Errorf("code %d, %s\nwant %s", r.code, got, tc.want)
			}
			if tc.gets != "" && len(s.data[tc.gets]) < 20 {
				t.Errorf("%s is %q", tc.gets, s.data[tc.gets])
			}
			if a, ok := tc.data["a"]; ok && tc.name != "new" && string(a) != "mine" {
				t.Errorf("a was changed: %q", a)
			}
			if tc.gets == "" && s.patches > 0 {
				t.Error("written without need")
			}
		})
	}
	if r := skydive(t, nil, "", "skydive", "kube-secret", "s", "a"); r.code != 1 || !strings.Contains(r.stderr, "not in a pod") {
		t.Errorf("%+v", r)
	}
}
