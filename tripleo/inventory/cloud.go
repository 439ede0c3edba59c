package inventory

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/gophercloud/gophercloud"
	"github.com/gophercloud/gophercloud/openstack"
	"github.com/gophercloud/gophercloud/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/openstack/identity/v3/tokens"
	"github.com/gophercloud/gophercloud/pagination"
)

// cloud is what the undercloud tells about its overcloud.
type cloud struct {
	keystoneURL, internalURL, adminPassword, region string
	hosts                                           *hosts
}

const maxAnswer = 64 << 20

// undercloud asks the services of the undercloud, as one user.
type undercloud struct {
	options  Options
	keystone string // URL without version
	provider *gophercloud.ProviderClient
	warn     func(string, ...any)
}

// login gets a token, and with it the catalogue of services.
func login(ctx context.Context, options Options, warn func(string, ...any)) (*undercloud, error) {
	base, err := keystoneBase(options.AuthURL)
	if err != nil {
		return nil, err
	}
	switch {
	case options.AuthToken != "":
	case options.Username == "":
		return nil, errors.New("no user: set OS_USERNAME (source stackrc) or --username, or OS_AUTH_TOKEN or --os-auth-token")
	case options.Password == "":
		return nil, errors.New("no password: set OS_PASSWORD (source stackrc) or --password")
	case options.ProjectName == "":
		return nil, errors.New("no project: set OS_PROJECT_NAME (source stackrc) or --project-name")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if options.CACert != "" {
		pem, err := readFile(options.CACert)
		if err != nil {
			return nil, fmt.Errorf("cacert %s: %w", options.CACert, err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cacert %s: holds no PEM certificate", options.CACert)
		}
	}
	provider, err := openstack.NewClient(base)
	if err != nil {
		return nil, fmt.Errorf("auth-url: %w", err)
	}
	// BaseEndpoint cuts what it takes for a version.
	provider.IdentityBase, provider.IdentityEndpoint = base+"/", base+"/"
	provider.Context = ctx
	provider.HTTPClient = http.Client{Transport: bounded{transport}, CheckRedirect: stay}
	provider.UserAgent.Prepend("skydive-tripleo-inventory")
	u := &undercloud{options: options, keystone: base, provider: provider, warn: warn}

	credentials := &tokens.AuthOptions{TokenID: options.AuthToken}
	if options.ProjectName != "" {
		credentials.Scope = tokens.Scope{ProjectName: options.ProjectName, DomainName: options.ProjectDomain}
	}
	if options.AuthToken == "" {
		credentials.Username, credentials.Password, credentials.DomainName = options.Username, options.Password, options.UserDomain
	}
	if err := openstack.AuthenticateV3(provider, credentials, gophercloud.EndpointOpts{}); err != nil {
		refused := fmt.Sprintf("does not let in user %s of domain %s with project %s of domain %s: wrong password, or no role there",
			options.Username, options.UserDomain, options.ProjectName, options.ProjectDomain)
		if options.AuthToken != "" {
			refused = "does not accept the token"
			// So Keystone says that it knows no such token.
			if missing := (gophercloud.ErrDefault404{}); errors.As(err, &missing) {
				return nil, fmt.Errorf("Keystone at %s/v3 %s", base, refused)
			}
		}
		return nil, u.explain("Keystone", base+"/v3", refused, err)
	}
	return u, nil
}

// keystoneBase is the URL without the version at its end: stackrc files name any, or none.
func keystoneBase(authURL string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(authURL))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", errors.New("auth-url: want a URL such as https://192.168.24.2:13000/v3, with neither user nor query")
	}
	return unversioned(u.String()), nil
}

func unversioned(url string) string {
	url = strings.TrimRight(url, "/")
	for _, version := range []string{"/v3", "/v2.0"} {
		url = strings.TrimSuffix(url, version)
	}
	return strings.TrimRight(url, "/")
}

// stay follows Heat from the name of a stack to its id, and nobody to another host: proxies tell a wrong scheme or name there, and a token
// must not go elsewhere.
func stay(r *http.Request, via []*http.Request) error {
	if len(via) > 3 {
		return errors.New("redirected more than 3 times")
	}
	r.URL.Scheme, r.URL.Host, r.Host = via[0].URL.Scheme, via[0].URL.Host, ""
	return nil
}

// bounded ends an answer that does not.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		answer.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(answer.Body, maxAnswer), answer.Body}
	}
	return answer, err
}

// explain says in one line why a service did not answer. What it sent is not repeated but for Heat's and Keystone's own short message.
func (u *undercloud) explain(service, where, refused string, err error) error {
	var (
		status  gophercloud.StatusCodeError
		failure *url.Error
	)
	where = service + " at " + where
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) && u.provider.Context.Err() != nil:
		return fmt.Errorf("%s has not answered within %.0f s (--timeout)", where, u.options.Timeout.Seconds())
	case errors.As(err, &status) && status.GetStatusCode() == http.StatusUnauthorized:
		return fmt.Errorf("%s %s", where, refused)
	case errors.As(err, &status) && status.GetStatusCode() == http.StatusForbidden:
		return fmt.Errorf("%s forbids it: the user needs the role admin in the project", where)
	case errors.As(err, &status):
		return fmt.Errorf("%s answers %d %s", where, status.GetStatusCode(), http.StatusText(status.GetStatusCode()))
	case errors.As(err, &failure):
		return fmt.Errorf("%s does not answer: %s", where, oneLine(failure.Err.Error()))
	}
	return fmt.Errorf("%s answers what is not understood: %s", where, oneLine(err.Error()))
}

func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	return fmt.Sprintf("%.300s", strings.Join(strings.Fields(text), " "))
}

// service finds an endpoint in the catalogue.
func (u *undercloud) service(kind string) (*gophercloud.ServiceClient, error) {
	where := gophercloud.EndpointOpts{Type: kind, Region: u.options.Region, Availability: gophercloud.Availability(u.options.Interface)}
	endpoint, err := u.provider.EndpointLocator(where)
	if err == nil {
		var parsed *url.URL
		if parsed, err = url.Parse(endpoint); err == nil && (parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https") {
			err = errors.New("no URL")
		}
	}
	if err != nil {
		region := ""
		if u.options.Region != "" {
			region = " in region " + u.options.Region
		}
		return nil, fmt.Errorf("Keystone at %s/v3 has no %s endpoint of the service %s%s", u.keystone, u.options.Interface, kind, region)
	}
	return &gophercloud.ServiceClient{ProviderClient: u.provider, Endpoint: endpoint, Type: kind}, nil
}

// errNoStack: Heat is there, the plan is not.
type errNoStack struct{ text string }

func (e errNoStack) Error() string { return e.text }

// ask reads stack and servers.
func (u *undercloud) ask() (*cloud, error) {
	found := &cloud{hosts: newHosts(u.warn)}
	outputs, err := u.stack(found)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"KeystoneURL", "EndpointMap", "RoleNetHostnameMap", "RoleNetIpMap"} {
		if outputs != nil && outputs[name] == nil {
			u.warn("stack %s has no output %s", u.options.Plan, name)
		}
	}
	if found.keystoneURL = strings.TrimSpace(text(outputs["KeystoneURL"])); found.keystoneURL != "" {
		found.keystoneURL = unversioned(found.keystoneURL) + "/v3"
	}
	endpoints, _ := outputs["EndpointMap"].(map[string]any)
	internal, _ := endpoints["KeystoneV3Internal"].(map[string]any)
	found.internalURL = text(internal["uri"])
	if outputs["EndpointMap"] != nil && found.internalURL == "" {
		u.warn("output EndpointMap of stack %s has no KeystoneV3Internal.uri", u.options.Plan)
	}
	names, _ := outputs["RoleNetHostnameMap"].(map[string]any)
	if addresses, ok := outputs["RoleNetIpMap"].(map[string]any); ok && len(names) > 0 {
		found.hosts.roles(names, addresses)
	} else {
		u.warn("the stack does not tell the hosts: Nova is asked for its servers")
		if err := u.nova(found.hosts); err != nil {
			return nil, err
		}
	}
	if found.hosts.empty() {
		return nil, fmt.Errorf("no controller and no compute host found in stack %s; nothing is written", u.options.Plan)
	}
	if len(found.hosts.analyzers) == 0 {
		u.warn("no role is a controller: the group analyzers is empty, and no host would run an analyzer")
	}
	return found, nil
}

// stack returns the outputs of the plan's stack, nil if there is no Heat.
func (u *undercloud) stack(found *cloud) (map[string]any, error) {
	heat, err := u.service("orchestration")
	if err != nil {
		u.warn("%v", err)
		return nil, nil
	}
	where := strings.TrimRight(heat.Endpoint, "/")
	var answer struct {
		Stack struct {
			ID      string `json:"id"`
			Name    string `json:"stack_name"`
			Status  string `json:"stack_status"`
			Outputs []struct {
				Key   string `json:"output_key"`
				Value any    `json:"output_value"`
				Error string `json:"output_error"`
			} `json:"outputs"`
		} `json:"stack"`
	}
	if err := get(heat, &answer, "stacks", u.options.Plan); err != nil {
		var missing gophercloud.ErrDefault404
		if errors.As(err, &missing) {
			return nil, errNoStack{fmt.Sprintf("Heat at %s has no stack %q%s; --plan names it", where, u.options.Plan, u.otherStacks(heat))}
		}
		return nil, u.explain("Heat", where, "does not accept the token", err)
	}
	if status := answer.Stack.Status; status != "" && !strings.HasSuffix(status, "_COMPLETE") {
		u.warn("stack %s is %.32s: what it tells may not be complete", u.options.Plan, oneLine(status))
	}
	outputs := map[string]any{}
	for _, output := range answer.Stack.Outputs {
		outputs[output.Key] = output.Value
		if output.Error != "" {
			u.warn("output %.64s of stack %s: %s", output.Key, u.options.Plan, oneLine(output.Error))
		}
	}
	path := []string{"stacks", u.options.Plan, "environment"}
	if answer.Stack.ID != "" {
		path = []string{"stacks", u.options.Plan, answer.Stack.ID, "environment"}
	}
	var environment struct {
		Defaults   map[string]any `json:"parameter_defaults"`
		Parameters map[string]any `json:"parameters"`
	}
	if err := get(heat, &environment, path...); err != nil {
		u.warn("environment of stack %s: %v", u.options.Plan, u.explain("Heat", where, "does not accept the token", err))
	}
	parameter := func(name string) string {
		if value := text(environment.Parameters[name]); value != "" {
			return value
		}
		return text(environment.Defaults[name])
	}
	found.region = parameter("KeystoneRegion")
	if found.adminPassword = parameter("AdminPassword"); found.adminPassword == "" {
		u.warn("the environment of stack %s has no parameter AdminPassword", u.options.Plan)
	}
	return outputs, nil
}

func get(client *gophercloud.ServiceClient, answer any, path ...string) error {
	for i := range path {
		path[i] = url.PathEscape(path[i])
	}
	_, err := client.Get(client.ServiceURL(path...), answer, &gophercloud.RequestOpts{OkCodes: []int{http.StatusOK}})
	return err
}

// otherStacks tells what there is instead of what was asked for.
func (u *undercloud) otherStacks(heat *gophercloud.ServiceClient) string {
	var answer struct {
		Stacks []struct {
			Name string `json:"stack_name"`
		} `json:"stacks"`
	}
	if get(heat, &answer, "stacks") != nil || len(answer.Stacks) == 0 {
		return ""
	}
	var names []string
	for _, stack := range answer.Stacks {
		names = append(names, stack.Name)
	}
	return "; it has " + oneLine(strings.Join(names, ", "))
}

func (u *undercloud) nova(h *hosts) error {
	nova, err := u.service("compute")
	if err != nil {
		return err
	}
	var found []server
	err = servers.List(nova, servers.ListOpts{}).EachPage(func(page pagination.Page) (bool, error) {
		var part []server
		err := servers.ExtractServersInto(page, &part)
		found = append(found, part...)
		return true, err
	})
	if err != nil {
		return u.explain("Nova", strings.TrimRight(nova.Endpoint, "/"), "does not accept the token", err)
	}
	h.servers(found)
	return nil
}
