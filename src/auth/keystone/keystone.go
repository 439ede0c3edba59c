// Package keystone asks OpenStack's Keystone who users are: it lets in those who have a role in one project, and are of its domain.
//
// It speaks version 3 of the identity API only, never over a certificate that it cannot verify, follows no redirect with a password or
// a token in hand, and remembers nothing: that is for its caller to do.
package keystone

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud"
	"github.com/gophercloud/gophercloud/openstack/identity/v3/tokens"

	"skydive/src/auth"
)

const (
	maxAnswer = 1 << 20
	maxToken  = 16 << 10
	maxName   = 255 // Keystone's own limit
	maxSecret = 4096
	patience  = 10 * time.Second
)

// Keystone is one section auth.<name> of type keystone.
type Keystone struct {
	endpoint        string // "https://host:5000/v3/"
	project, domain string
	client          http.Client
}

// New makes the backend of a section. Keystone is not asked yet.
func New(_ string, cfg auth.Config) (auth.TokenBackend, error) {
	endpoint, err := endpointOf(cfg.AuthURL)
	switch {
	case err != nil:
		return nil, err
	case cfg.TenantName == "":
		return nil, errors.New("tenant_name is empty: it is the project that users must have a role in")
	case cfg.DomainName == "":
		return nil, errors.New("domain_name is empty, which once stood for version 2 of Keystone's API; no supported Keystone has that: set the domain of the project and of its users, as a rule Default")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	transport.MaxIdleConnsPerHost = 8
	if cfg.CACert != "" {
		pem, err := os.ReadFile(cfg.CACert)
		if err != nil {
			return nil, fmt.Errorf("ca_cert: %w", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_cert: %s holds no PEM certificate", cfg.CACert)
		}
	}
	return &Keystone{endpoint: endpoint, project: cfg.TenantName, domain: cfg.DomainName, client: http.Client{
		Transport:     brief{transport},
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// endpointOf returns where version 3 is. The version at the end of a URL is not looked at: the files that clouds hand out name any.
func endpointOf(authURL string) (string, error) {
	if authURL == "" {
		return "", errors.New("Authentication URL empty")
	}
	u, err := url.Parse(authURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("auth_url: want a URL such as https://cloud.example.org:5000/v3, with neither user nor query")
	}
	base := strings.TrimRight(u.String(), "/")
	for _, version := range []string{"/v3", "/v2.0"} {
		base = strings.TrimSuffix(base, version)
	}
	return strings.TrimRight(base, "/") + "/v3/", nil
}

// brief leaves out the catalogue of the cloud, which nobody here reads, and the rest of an answer that does not end.
type brief struct{ http.RoundTripper }

func (b brief) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.RawQuery = "nocatalog"
	answer, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(answer.Body, maxAnswer), answer.Body}
	}
	return answer, err
}

// service speaks with the token of a user, or with none.
func (k *Keystone) service(ctx context.Context, token string) *gophercloud.ServiceClient {
	provider := &gophercloud.ProviderClient{HTTPClient: k.client, Context: ctx, TokenID: token}
	provider.UserAgent.Prepend("skydive")
	return &gophercloud.ServiceClient{ProviderClient: provider, Endpoint: k.endpoint}
}

// Login gets a token for the project.
func (k *Keystone) Login(ctx context.Context, user, password string) (auth.Token, error) {
	if len(user) > maxName || len(password) > maxSecret {
		return auth.Token{}, auth.ErrWrong
	}
	answer := tokens.Create(k.service(ctx, ""), &tokens.AuthOptions{
		Username: user, Password: password, DomainName: k.domain,
		Scope: tokens.Scope{ProjectName: k.project, DomainName: k.domain},
	})
	if answer.Err != nil {
		return auth.Token{}, k.explain(answer.Err, fmt.Sprintf("wrong user or password, or no role in project %s of domain %s", k.project, k.domain))
	}
	id := answer.Header.Get("X-Subject-Token")
	if id == "" {
		return auth.Token{}, auth.Unavailable("Keystone at " + k.endpoint + " gave no token: is auth_url right?")
	}
	return k.accept(id, answer.Result)
}

// Verify tells whose token it is. Everybody may ask Keystone about a token of one's own.
func (k *Keystone) Verify(ctx context.Context, token string) (auth.Token, error) {
	if !plausible(token) {
		return auth.Token{}, auth.ErrWrong
	}
	answer := tokens.Get(k.service(ctx, token), token)
	if answer.Err != nil {
		return auth.Token{}, k.explain(answer.Err, "the token has expired or was revoked, or is none of this Keystone")
	}
	return k.accept(token, answer.Result)
}

// Revoke makes a token worthless, everywhere.
func (k *Keystone) Revoke(ctx context.Context, token string) error {
	if !plausible(token) {
		return nil
	}
	err := k.explain(tokens.Revoke(k.service(ctx, token), token).Err, "")
	var known *auth.Error
	if errors.As(err, &known) && known.Status() == http.StatusUnauthorized {
		return nil // it is already
	}
	return err
}

// plausible tells whether a token can be sent in a header.
func plausible(token string) bool {
	return token != "" && len(token) <= maxToken && strings.IndexFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) < 0
}

// accept looks at where a token is good. A name alone says who a user is, so users of other domains, who may have the same ones, stay out.
func (k *Keystone) accept(id string, answer gophercloud.Result) (auth.Token, error) {
	type domain struct{ Name string }
	var body struct {
		Token struct {
			Expires time.Time `json:"expires_at"`
			User    struct {
				Name   string
				Domain domain
			}
			Project *struct {
				Name   string
				Domain domain
			}
		}
	}
	if err := answer.ExtractInto(&body); err != nil || body.Token.User.Name == "" || body.Token.Expires.IsZero() {
		return auth.Token{}, auth.Unavailable("Keystone at " + k.endpoint + " gave an answer that tells no user: is auth_url right?")
	}
	t := body.Token
	switch {
	case t.Project == nil:
		return auth.Token{}, auth.Refused(fmt.Sprintf("Tenant mismatch: the token is for no project, want %s", k.project))
	case t.Project.Name != k.project:
		return auth.Token{}, auth.Refused(fmt.Sprintf("Tenant mismatch: the token is for project %s, want %s", t.Project.Name, k.project))
	case t.Project.Domain.Name != k.domain || t.User.Domain.Name != k.domain:
		return auth.Token{}, auth.Refused(fmt.Sprintf("Domain mismatch: the project is of domain %s and the user of %s, want %s", t.Project.Domain.Name, t.User.Domain.Name, k.domain))
	}
	return auth.Token{ID: id, User: t.User.Name, Until: t.Expires}, nil
}

// explain tells a no of Keystone, for which cause is the likely reason, from an answer that is none.
func (k *Keystone) explain(err error, cause string) error {
	var answer gophercloud.ErrUnexpectedResponseCode
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &answer):
		// The cause without method and URL, which the sentence has already.
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err
		}
		if errors.Is(err, context.DeadlineExceeded) || inner != nil && inner.Timeout() {
			err = errors.New("no answer in time")
		}
		return auth.Unavailable(fmt.Sprintf("Keystone at %s cannot be asked: %s", k.endpoint, err))
	}
	var body struct{ Error struct{ Message string } }
	_ = json.Unmarshal(answer.Body, &body) // what is not from Keystone need not be JSON
	said, status := strings.TrimSpace(body.Error.Message), fmt.Sprintf("%d %s", answer.Actual, http.StatusText(answer.Actual))
	switch code := answer.Actual; {
	case code >= 300 && code < 400:
		return auth.Unavailable(fmt.Sprintf("Keystone at %s redirects elsewhere (%s): set auth_url to its own address", k.endpoint, status))
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		return auth.Unavailable(fmt.Sprintf("Keystone at %s is in trouble: %s", k.endpoint, status))
	case said == "" || code == http.StatusNotFound && answer.Method == http.MethodPost:
		return auth.Unavailable(fmt.Sprintf("what is at %s does not answer as Keystone does (%s): is auth_url right?", k.endpoint, status))
	}
	return auth.Refused(fmt.Sprintf("Keystone: %s (%s)", said, cause))
}
