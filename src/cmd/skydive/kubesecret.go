package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// kubeSecretCommand makes the passwords of a deployment on Kubernetes: a manifest cannot hold a random value, and the image holds no
// other program that could.
func (env *environment) kubeSecretCommand() *cli.Command {
	return &cli.Command{
		Name:      "kube-secret",
		Usage:     "give the keys that a Secret of Kubernetes lacks random values",
		ArgsUsage: "SECRET KEY…",
		Description: "For init containers: it uses the service account of the pod that it runs in, which must be allowed to get and patch\n" +
			"that Secret of its own namespace. Keys that are there stay as they are, and no value is printed.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "service-account", Usage: "`DIRECTORY` of the credentials", Value: "/var/run/secrets/kubernetes.io/serviceaccount"},
			&cli.DurationFlag{Name: "timeout", Usage: "`TIME` until the API server must have answered", Value: 20 * time.Second},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() < 2 {
				return usage(c, "the name of a Secret, or a key,")
			}
			s, err := env.newKubeSecret(c.String("service-account"), c.Args().First())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
			defer cancel()
			added, err := s.fill(ctx, c.Args().Tail())
			if err != nil {
				return fmt.Errorf("secret %s of namespace %s: %w", s.name, s.namespace, err)
			}
			fmt.Fprintf(env.Stdout, "secret %s: %s\n", s.name, cmp.Or(strings.Join(added, ", "), "nothing")+" added")
			return nil
		},
	}
}

// kubeSecret is a Secret in the namespace of this pod.
type kubeSecret struct {
	name, namespace, url, token string
	client                      *http.Client
}

func (env *environment) newKubeSecret(account, name string) (*kubeSecret, error) {
	host, port := env.getenv("KUBERNETES_SERVICE_HOST"), env.getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, fmt.Errorf("not in a pod: KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set")
	}
	s := &kubeSecret{name: name}
	var authority string
	for file, text := range map[string]*string{"namespace": &s.namespace, "token": &s.token, "ca.crt": &authority} {
		content, err := os.ReadFile(filepath.Join(account, file))
		if err != nil {
			return nil, fmt.Errorf("credentials of the service account: %w", err)
		}
		*text = strings.TrimSpace(string(content))
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(authority)) {
		return nil, fmt.Errorf("%s: no certificate", filepath.Join(account, "ca.crt"))
	}
	s.url = "https://" + net.JoinHostPort(host, port) + "/api/v1/namespaces/" + s.namespace + "/secrets/" + name
	s.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	return s, nil
}

// secretObject is what matters of a Secret. A revision that has passed makes the server refuse the change.
type secretObject struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Data map[string][]byte `json:"data"`
}

// fill returns the keys that it gave a value. An empty value is none.
func (s *kubeSecret) fill(ctx context.Context, keys []string) (added []string, err error) {
	var now, change secretObject
	if err := s.do(ctx, http.MethodGet, nil, &now); err != nil {
		return nil, err
	}
	change.Metadata, change.Data = now.Metadata, map[string][]byte{}
	for _, key := range keys {
		if len(now.Data[key]) == 0 && !slices.Contains(added, key) {
			change.Data[key] = []byte(rand.Text())
			added = append(added, key)
		}
	}
	if len(added) == 0 {
		return nil, nil
	}
	return added, s.do(ctx, http.MethodPatch, &change, nil)
}

func (s *kubeSecret) do(ctx context.Context, method string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, s.url, &body)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+s.token)
	r.Header.Set("Content-Type", "application/merge-patch+json")
	resp, err := s.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 2<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		var status struct {
			Message string `json:"message"`
		}
		_ = json.Unmarshal(answer, &status) // a proxy's page is no JSON
		return fmt.Errorf("%s: %s", resp.Status, cmp.Or(status.Message, "no reason given"))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}
