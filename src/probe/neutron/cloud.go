package neutron

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
	"strconv"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud"
	"github.com/gophercloud/gophercloud/openstack/identity/v3/tokens"
)

const (
	maxAnswer = 64 << 20
	pageSize  = 1000
	maxPages  = 1000
	maxSaid   = 200 // of what a service says in an error
)

// cloud asks Keystone and Neutron. It belongs to one goroutine.
type cloud struct {
	cfg      Config
	keystone string // "https://host:5000/v3/"
	client   http.Client
	count    func(resource string, err error)

	token string
	until time.Time // when to ask for the next token, before this one ends
	base  string    // of Neutron: "https://host:9696/v2.0/"
}

func newCloud(cfg Config, count func(string, error)) (*cloud, error) {
	keystone, err := identityOf(cfg.AuthURL)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: cfg.Insecure}
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
	return &cloud{cfg: cfg, keystone: keystone, count: count, client: http.Client{
		Transport: bounded{transport},
		Timeout:   cfg.Timeout,
		// No redirect is followed with a password or a token in hand.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// identityOf returns where version 3 of the identity API is, whatever version the URL names.
func identityOf(authURL string) (string, error) {
	if authURL == "" {
		return "", errors.New("auth_url is empty: it is the URL of Keystone")
	}
	u, err := url.Parse(authURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("auth_url: want a URL such as https://cloud.example.org:5000/v3, with neither user nor query")
	}
	return withVersion(u.String(), "/v3/", "/v2.0"), nil
}

// withVersion puts the version of an API at the end of a URL, in place of the one that is there.
func withVersion(text, version string, others ...string) string {
	text = strings.TrimRight(text, "/")
	for _, v := range append(others, strings.TrimRight(version, "/")) {
		text = strings.TrimRight(strings.TrimSuffix(text, v), "/")
	}
	return text + version
}

// bounded leaves out the rest of an answer that does not end.
type bounded struct{ *http.Transport }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.Transport.RoundTrip(r)
	if err == nil {
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(answer.Body, maxAnswer), answer.Body}
	}
	return answer, err
}

// service speaks with the token that there is.
func (c *cloud) service(ctx context.Context, endpoint string) *gophercloud.ServiceClient {
	provider := &gophercloud.ProviderClient{HTTPClient: c.client, Context: ctx, TokenID: c.token}
	provider.UserAgent.Prepend("skydive")
	return &gophercloud.ServiceClient{ProviderClient: provider, Endpoint: endpoint}
}

// login gets a token, and from the catalogue that comes with it the address of Neutron.
func (c *cloud) login(ctx context.Context) (err error) {
	c.token = ""
	defer func() { c.count("tokens", err) }()
	answer := tokens.Create(c.service(ctx, c.keystone), &tokens.AuthOptions{
		Username: c.cfg.Username, Password: c.cfg.Password, DomainName: c.cfg.DomainName,
		Scope: tokens.Scope{ProjectName: c.cfg.TenantName, DomainName: c.cfg.DomainName},
	})
	if answer.Err != nil {
		return c.explain(answer.Err, "Keystone", c.keystone, fmt.Sprintf("user %s, project %s, domain %s", c.cfg.Username, c.cfg.TenantName, c.cfg.DomainName))
	}
	var body struct {
		Token struct {
			Issued  time.Time `json:"issued_at"`
			Expires time.Time `json:"expires_at"`
			tokens.ServiceCatalog
		}
	}
	id := answer.Header.Get("X-Subject-Token")
	if err := answer.Result.ExtractInto(&body); err != nil || id == "" {
		return fmt.Errorf("what is at %s gave no token: is auth_url right?", c.keystone)
	}
	endpoint := c.choose(body.Token.Entries)
	if endpoint == "" {
		return fmt.Errorf("Keystone's catalogue has no %s endpoint of type network in region %q%s", c.cfg.EndpointType, c.cfg.RegionName, others(body.Token.Entries))
	}
	if u, err := url.Parse(endpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("Keystone's catalogue has no URL for Neutron but %.*q", maxSaid, endpoint)
	}
	c.base = withVersion(endpoint, "/v2.0/")
	// Clocks differ, hence by how long it is good for. A token that Keystone calls over at once is used until it is refused.
	good := body.Token.Expires.Sub(body.Token.Issued)
	c.until = time.Now().Add(max(good-min(good/10, time.Minute), time.Second))
	c.token = id
	return nil
}

// choose returns the URL of Neutron. Installers do not agree on the case of RegionOne, so that decides only between two that differ in it.
func (c *cloud) choose(catalog []tokens.CatalogEntry) (chosen string) {
	region := c.cfg.RegionName
	for _, entry := range catalog {
		for _, e := range entry.Endpoints {
			switch {
			case entry.Type != "network" || e.Interface != c.cfg.EndpointType:
			case region == "" || e.Region == region || e.RegionID == region:
				return e.URL
			case chosen == "" && (strings.EqualFold(e.Region, region) || strings.EqualFold(e.RegionID, region)):
				chosen = e.URL
			}
		}
	}
	return chosen
}

// others tells which endpoints there are instead.
func others(catalog []tokens.CatalogEntry) string {
	var there []string
	for _, entry := range catalog {
		if entry.Type != "network" {
			continue
		}
		for _, e := range entry.Endpoints {
			if len(there) == 10 {
				break
			}
			there = append(there, fmt.Sprintf("%.40s in %.40s", e.Interface, e.Region))
		}
	}
	if there == nil {
		return ", and none elsewhere"
	}
	return ", only " + strings.Join(there, ", ")
}

// get reads one answer. A token that ended before its time is replaced once.
func (c *cloud) get(ctx context.Context, resource, from string, into any) error {
	if c.token == "" || time.Now().After(c.until) {
		if err := c.login(ctx); err != nil {
			return err
		}
	}
	ask := func() error {
		service, base := c.of(resource)
		_, err := c.service(ctx, base).Get(base+from, into, nil)
		return c.explain(err, service, base, resource+" for user "+c.cfg.Username)
	}
	err := ask()
	var known *refusal
	if errors.As(err, &known) && known.status == http.StatusUnauthorized {
		if err := c.login(ctx); err != nil {
			return err
		}
		if err = ask(); errors.As(err, &known) && known.status == http.StatusUnauthorized {
			c.token = ""
		}
	}
	c.count(resource, err)
	return err
}

// of returns who has a resource.
func (c *cloud) of(resource string) (service, base string) {
	if resource == "projects" {
		return "Keystone", c.keystone
	}
	return "Neutron", c.base
}

// list reads a collection to its end, page by page. The links to further pages are not followed, as they may name another host than
// the one that is asked: that there is one is all that is read from them.
func list[T any](ctx context.Context, c *cloud, resource string, query url.Values, id func(*T) string, keep func(*T)) error {
	paged := resource != "projects"
	marker := ""
	for range maxPages {
		if paged {
			query.Set("limit", strconv.Itoa(pageSize))
		}
		if marker != "" {
			query.Set("marker", marker)
		}
		var page map[string]json.RawMessage
		if err := c.get(ctx, resource, resource+"?"+query.Encode(), &page); err != nil {
			return err
		}
		var items []T
		var links []struct{ Rel string }
		text, there := page[resource]
		if err := json.Unmarshal(text, &items); !there || err != nil || items == nil {
			service, base := c.of(resource)
			return fmt.Errorf("what answers instead of %s at %s sends no list of %s", service, base, resource)
		}
		last := ""
		for i := range items {
			if last = id(&items[i]); last != "" {
				keep(&items[i])
			}
		}
		more := page[resource+"_links"]
		if len(more) > 0 {
			_ = json.Unmarshal(more, &links) // no links, no further page
		}
		next := false
		for _, l := range links {
			next = next || l.Rel == "next"
		}
		if !paged || !next || last == "" || last == marker {
			return nil
		}
		marker = last
	}
	return fmt.Errorf("Neutron at %s sends more than %d pages of %s", c.base, maxPages, resource)
}

// refusal is a no of a service, not a fault of it.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// refused tells whether a service answered with one of these statuses.
func refused(err error, statuses ...int) bool {
	var known *refusal
	if errors.As(err, &known) {
		for _, s := range statuses {
			if known.status == s {
				return true
			}
		}
	}
	return false
}

// explain makes of any error one that says who does not do what, and shows neither password nor token.
func (c *cloud) explain(err error, service, at, what string) error {
	var answer gophercloud.ErrUnexpectedResponseCode
	var inner *url.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &inner):
		// The cause without method and URL, which the sentence has already.
		if err = inner.Err; errors.Is(err, context.DeadlineExceeded) || inner.Timeout() {
			err = errors.New("no answer in time")
		}
		return fmt.Errorf("%s at %s cannot be asked: %w", service, at, err)
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s at %s does not answer to its end in time", service, at)
	case !errors.As(err, &answer):
		return fmt.Errorf("what is at %s does not answer as %s does: no JSON", at, service)
	}
	status, said := fmt.Sprintf("%d %s", answer.Actual, http.StatusText(answer.Actual)), said(answer.Body)
	switch code := answer.Actual; {
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		return fmt.Errorf("%s at %s is in trouble: %s", service, at, status)
	case code >= 300 && code < 400:
		return fmt.Errorf("%s at %s redirects elsewhere (%s), which is not followed", service, at, status)
	case said == "":
		return &refusal{code, fmt.Sprintf("what is at %s does not answer as %s does: %s", at, service, status)}
	}
	return &refusal{answer.Actual, fmt.Sprintf("%s at %s refuses: %s (%s)", service, at, said, what)}
}

// said is the message in the answer of a service: Keystone calls it error, Neutron NeutronError.
func said(body []byte) string {
	var all map[string]json.RawMessage
	if json.Unmarshal(body, &all) != nil {
		return ""
	}
	for _, key := range []string{"error", "NeutronError"} {
		var message struct{ Message string }
		text := all[key]
		if json.Unmarshal(text, &message) != nil && json.Unmarshal(text, &message.Message) != nil {
			continue
		}
		if s := strings.TrimSpace(message.Message); s != "" {
			return fmt.Sprintf("%.*s", maxSaid, s)
		}
	}
	return ""
}
