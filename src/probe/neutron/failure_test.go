package neutron_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/probe/neutron"
	"skydive/src/probe/probetest"
)

// at makes requests fail whose path begins so.
func at(path string, status int, text string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, path) {
			return false
		}
		w.Header().Set("Location", "http://192.0.2.1:1/")
		answer(w, status, text)
		return true
	}
}

// closed is an address that nobody listens at.
func closed(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// garbage is what services that are none answer.
var garbage = [...]string{
	"", "null", "0", `"x"`, "[]", "{}", "{", "<html>404</html>", "\x00\xff", `{"ports":null}`, `{"ports":{}}`, `{"ports":"x"}`, `{"ports":[1]}`, `{"ports":[null]}`,
	`{"ports":[{"id":1}]}`, `{"ports":[{"id":"a","fixed_ips":{}}]}`, `{"ports":[{"id":"a","fixed_ips":[{"ip_address":7}]}]}`, `{"ports":[{"id":"a","revision_number":"x"}]}`,
	`{"ports":[{"id":"a"}],"ports_links":7}`, `{"ports":[{"id":"a"}],"ports_links":[{"rel":"next"}]}`, `{"token":null}`, `{"token":7}`, `{"token":{"catalog":{}}}`,
	`{"token":{"catalog":[null,7]}}`, `{"token":{"catalog":[{"type":"network","endpoints":[{"interface":"public","region":"RegionOne","url":":%zz"}]}]}}`,
	strings.Repeat("[", 100000), strings.Repeat(`{"token":`, 10000), `{"networks":[{"id":"a","provider:segmentation_id":"x"}]}`,
}

// With Keystone or Neutron away, or something else in their places, at the start.
func TestNotAtStart(t *testing.T) {
	keystone, neutronAt := "Keystone at URL/v3/ ", "Neutron at URL/v2.0/ "
	for _, x := range []struct {
		path   string
		status int
		text   string
		want   string
	}{
		{"/v3/auth", 500, "<h1>oops</h1>", keystone + "is in trouble: 500 Internal Server Error"},
		{"/v3/auth", 503, `{"error":{"code":503,"message":"later"}}`, keystone + "is in trouble: 503 Service Unavailable"},
		{"/v3/auth", 401, unauthorized, keystone + "refuses: The request you have made requires authentication. (user neutron, project service, domain Default)"},
		{"/v3/auth", 403, `{"error":"no"}`, keystone + "refuses: no (user neutron, project service, domain Default)"},
		{"/v3/auth", 404, "<html>", "what is at URL/v3/ does not answer as Keystone does: 404 Not Found"},
		{"/v3/auth", 302, "", keystone + "redirects elsewhere (302 Found), which is not followed"},
		{"/v3/auth", 200, "{}", "what is at URL/v3/ does not answer as Keystone does: 200 OK"},
		{"/v3/auth", 201, "{}", "what is at URL/v3/ gave no token: is auth_url right?"},
		{"/v3/auth", 201, "<html>", "what is at URL/v3/ does not answer as Keystone does: no JSON"},
		{"/v2.0/", 500, `{"NeutronError":{"type":"HTTPInternalServerError","message":"Request Failed: internal server error while processing your request.","detail":""}}`, neutronAt + "is in trouble: 500 Internal Server Error"},
		{"/v2.0/", 429, "", neutronAt + "is in trouble: 429 Too Many Requests"},
		{"/v2.0/", 401, unauthorized, neutronAt + "refuses: The request you have made requires authentication. (ports for user neutron)"},
		{"/v2.0/", 404, notFound, neutronAt + "refuses: The resource could not be found. (ports for user neutron)"},
		{"/v2.0/", 307, "", neutronAt + "redirects elsewhere (307 Temporary Redirect), which is not followed"},
		{"/v2.0/", 200, "<html>welcome</html>", "what is at URL/v2.0/ does not answer as Neutron does: no JSON"},
		{"/v2.0/", 200, "{}", "what answers instead of Neutron at URL/v2.0/ sends no list of ports"},
		{"/v2.0/", 200, `{"ports":[{"id":3}]}`, "what answers instead of Neutron at URL/v2.0/ sends no list of ports"},
	} {
		t.Run(fmt.Sprintf("%s %d %.20s", x.path, x.status, x.text), func(t *testing.T) {
			c, h := newCloud(t), probetest.NewHost(t)
			node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", c.vm()["id"])
			c.breaks(at(x.path, x.status, x.text))
			err := fails(t, h, c.config())
			if want := strings.ReplaceAll(x.want, "URL", c.URL); err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
			becomes(t, h, node, 0, "Manager", nil, "Neutron", nil)
			if running, _ := h.Running(); running {
				t.Error("it said that it runs")
			}
		})
	}
	c := newCloud(t)
	cfg := c.config()
	cfg.AuthURL = closed(t)
	if err := fails(t, probetest.NewHost(t), cfg); err == nil || !strings.HasPrefix(err.Error(), "Keystone at "+cfg.AuthURL+"/v3/ cannot be asked: ") || !strings.Contains(err.Error(), "refused") {
		t.Error("nobody listens:", err)
	}
	cfg = c.config()
	cfg.Password = "wrong"
	if err := fails(t, probetest.NewHost(t), cfg); err == nil || !strings.Contains(err.Error(), "refuses: The request you have made requires authentication.") {
		t.Error("wrong password:", err)
	}
}

// Garbage makes no harm anywhere, neither at the start nor later.
func TestGarbage(t *testing.T) {
	for _, text := range garbage {
		for _, x := range []struct {
			path   string
			status int
		}{{"/v3/auth", 201}, {"/v2.0/", 200}, {"/v2.0/", 500}, {"/v2.0/", 404}} {
			c, h := newCloud(t), probetest.NewHost(t)
			add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", "aaaaaaaa-1111-4000-8000-000000000000")
			c.breaks(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("X-Subject-Token", "t")
				return at(x.path, x.status, text)(w, r)
			})
			p, err := neutron.New(h.Env, c.config())
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			// It either fails, or takes what looks like a list as one.
			select {
			case err = <-done:
				if err == nil || strings.Contains(err.Error(), "panic") {
					t.Errorf("%.40q at %s: %v", text, x.path, err)
				}
			case <-waitFor(ctx, h):
				cancel()
				if err := <-done; err != nil {
					t.Errorf("%.40q at %s: %v", text, x.path, err)
				}
			case <-time.After(soon):
				t.Errorf("%.40q at %s: nothing happens", text, x.path)
			}
			cancel()
		}
	}
	c, h := newCloud(t), probetest.NewHost(t)
	port := c.vm()
	node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", port["id"])
	run(t, h, c.config())
	becomes(t, h, node, soon, "Neutron.PortID", port["id"])
	for _, kind := range []string{"networks", "subnets", "routers", "floatingips"} {
		for _, text := range garbage {
			c.breaks(at("/v2.0/"+kind, 200, text))
			name := fmt.Sprintf("%s %.20q", kind, text)
			c.revise(port, "name", name)
			becomes(t, h, node, soon, "Neutron.PortName", name, "Neutron.NetworkID", port["network_id"])
		}
	}
	c.breaks(nil)
	probetest.Eventually(t, soon, "all is well", func() bool { _, reason := h.Running(); return reason == "" })
}

// waitFor tells when a probe says that it runs.
func waitFor(ctx context.Context, h *probetest.Host) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if running, _ := h.Running(); running {
					close(c)
					return
				}
			}
		}
	}()
	return c
}

// Once something is shown it stays while Neutron cannot be asked, and follows again when it can.
func TestAway(t *testing.T) {
	t.Parallel() // each waits for the next try
	for name, fail := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"is in trouble: 500":                       at("/v2.0/ports", 500, "{}"),
		"is in trouble: 502":                       at("/v2.0", 502, "<html>"),
		"does not answer as Neutron does: no JSON": at("/v2.0/ports", 200, "<html>"),
		"requires authentication":                  at("/v2.0/ports", 401, unauthorized),
		"sends no list of ports":                   at("/v2.0/ports", 200, "{}"),
		"cannot be asked: EOF": func(w http.ResponseWriter, _ *http.Request) bool {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Close()
			return true
		},
		"no JSON": func(w http.ResponseWriter, r *http.Request) bool { // cut off in the middle
			w.Header().Set("Content-Length", "1000")
			answer(w, 200, `{"ports": [{"id": "`)
			return true
		},
		"in time": func(w http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, h := newCloud(t), probetest.NewHost(t)
			port := c.vm()
			node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", port["id"])
			cfg := c.config()
			cfg.Timeout = 300 * time.Millisecond
			run(t, h, cfg)
			becomes(t, h, node, soon, "Neutron.PortID", port["id"])
			c.breaks(fail)
			probetest.Eventually(t, soon, "a reason", func() bool {
				_, reason := h.Running()
				return strings.Contains(reason, name) && strings.HasSuffix(reason, "; what is shown is as of before")
			})
			becomes(t, h, node, 0, "Neutron.PortID", port["id"], "Manager", "neutron")
			second := c.twin("ports", port, body{"id": "aaaaaaaa-1111-4000-8000-000000000000", "mac_address": "fa:16:3e:00:00:99"})
			late := add(t, h, "Name", "y", "Type", "internal", "ExtID.iface-id", second["id"])
			again := add(t, h, "Name", "z", "Type", "internal", "ExtID.iface-id", port["id"]) // known
			becomes(t, h, again, soon, "Neutron.PortID", port["id"])
			c.breaks(nil)
			becomes(t, h, late, 10*time.Second, "Neutron.PortID", second["id"])
			probetest.Eventually(t, soon, "no reason", func() bool { _, reason := h.Running(); return reason == "" })
		})
	}
}

// What fails beside the ports is told, and does not keep them from being shown.
func TestPartsAway(t *testing.T) {
	c, h := newCloud(t), probetest.NewHost(t)
	port := c.vm()
	node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", port["id"])
	c.breaks(func(w http.ResponseWriter, r *http.Request) bool {
		return at("/v2.0/networks", 500, "")(w, r) || at("/v2.0/floatingips", 403, `{"NeutronError":{"message":"no"}}`)(w, r)
	})
	run(t, h, c.config())
	becomes(t, h, node, soon, "Neutron.PortID", port["id"], "Neutron.NetworkName", nil, "Neutron.FloatingIPs", nil, "Neutron.IPV4", []any{address(port, false) + "/24"})
	want := "Neutron at " + c.URL + "/v2.0/ is in trouble: 500 Internal Server Error; Neutron at " + c.URL + "/v2.0/ refuses: no (floatingips for user neutron)"
	probetest.Eventually(t, soon, "a reason", func() bool { _, reason := h.Running(); return reason == want })
	c.breaks(nil)
	becomes(t, h, node, soon, "Neutron.NetworkName", c.first("networks", "id", text(port, "network_id"))["name"])
	probetest.Eventually(t, soon, "no reason", func() bool { _, reason := h.Running(); return reason == "" })

	// What is known of them stays meanwhile.
	c.breaks(at("/v2.0/networks", 500, ""))
	probetest.Eventually(t, soon, "a reason", func() bool { _, reason := h.Running(); return reason != "" })
	c.revise(port, "name", "later")
	becomes(t, h, node, soon, "Neutron.PortName", "later", "Neutron.NetworkName", c.first("networks", "id", text(port, "network_id"))["name"])

	// Clouds without routers and floating addresses, and users who may not know the names of projects, are no trouble.
	h = probetest.NewHost(t)
	c.breaks(func(w http.ResponseWriter, r *http.Request) bool {
		return at("/v2.0/floatingips", 404, notFound)(w, r) || at("/v2.0/routers", 404, notFound)(w, r) || at("/v3/projects", 403, forbidden)(w, r)
	})
	router := c.first("ports", "device_owner", "network:router_interface")
	node = add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", router["id"])
	run(t, h, c.config())
	becomes(t, h, node, soon, "Neutron.PortID", router["id"], "Neutron.RouterID", router["device_id"], "Neutron.RouterName", nil, "Neutron.TenantID", router["tenant_id"], "Neutron.TenantName", nil)
	if running, reason := h.Running(); !running || reason != "" {
		t.Error(running, reason)
	}
}

// A user who sees no port of others' projects is told so.
func TestNothingShown(t *testing.T) {
	c, h := newCloud(t), probetest.NewHost(t)
	add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", "aaaaaaaa-1111-4000-8000-000000000000")
	add(t, h, "Name", "qdhcp-"+text(c.vm(), "network_id"), "Type", "netns", "Path", "/n") // networks that are shared are seen
	run(t, h, c.config())
	const want = "Neutron shows none of the 1 ports that Open vSwitch has here: may user neutron see those of all projects?"
	probetest.Eventually(t, soon, "a reason", func() bool { _, reason := h.Running(); return reason == want })
}

// Tokens end at their time, and before it.
func TestTokens(t *testing.T) {
	t.Parallel()
	c, h := newCloud(t), probetest.NewHost(t)
	c.maxPage = 2
	port := c.vm()
	node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", port["id"])
	var refusals atomic.Int64
	c.breaks(func(_ http.ResponseWriter, r *http.Request) bool {
		c.change(func() {
			if token := r.Header.Get("X-Auth-Token"); token != "" && !c.tokens[token] {
				refusals.Add(1)
			}
		})
		return false
	})
	logins := func() (n int) { c.change(func() { n = c.logins }); return n }
	run(t, h, c.config())
	becomes(t, h, node, soon, "Neutron.PortID", port["id"])
	if n := logins(); n != 1 {
		t.Error(n, "logins")
	}
	c.change(func() { clear(c.tokens) }) // revoked
	c.revise(port, "name", "one")
	becomes(t, h, node, soon, "Neutron.PortName", "one")
	if n, r := logins(), refusals.Load(); n != 2 || r != 1 {
		t.Error(n, "logins,", r, "refusals")
	}
	if _, reason := h.Running(); reason != "" {
		t.Error(reason)
	}
	// The next are good for 2 s: they are replaced before anybody refuses them.
	c.change(func() { clear(c.tokens); c.good = 2 * time.Second })
	probetest.Eventually(t, 10*time.Second, "more tokens", func() bool { return logins() >= 5 })
	if r := refusals.Load(); r != 2 {
		t.Error(r, "refusals")
	}
}

// Whatever Neutron does, nobody who changes the graph waits for it.
func TestGraphIsNotHeld(t *testing.T) {
	c, h := newCloud(t), probetest.NewHost(t)
	port := c.vm()
	node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", port["id"])
	cfg := c.config()
	cfg.Timeout = time.Hour
	p, err := neutron.New(h.Env, cfg)
	if err != nil {
		t.Fatal(err)
	}
	stop := h.Run(t, p)
	becomes(t, h, node, soon, "Neutron.PortID", port["id"])
	hangs := make(chan struct{}, 1)
	c.breaks(func(_ http.ResponseWriter, r *http.Request) bool {
		select {
		case hangs <- struct{}{}:
		default:
		}
		<-r.Context().Done()
		return true
	})
	<-hangs
	var worst time.Duration
	for i := range 5000 {
		n := h.Env.NewNode(field.Make("Name", fmt.Sprint("y", i), "Type", "internal", "ExtID", field.Make("iface-id", fmt.Sprintf("%08x-0000-4000-8000-000000000000", i))))
		start := time.Now()
		if err := h.Graph.Update("", func(tx *graph.Tx) error { return h.Env.AddChild(tx, h.Env.Root, n) }); err != nil {
			t.Fatal(err)
		}
		worst = max(worst, time.Since(start))
	}
	t.Log("longest change of the graph:", worst)
	if worst > 10*time.Second { // waiting for Neutron would take its time-out
		t.Error("too long")
	}
	again := add(t, h, "Name", "z", "Type", "internal", "ExtID.iface-id", port["id"])
	becomes(t, h, again, soon, "Neutron.PortID", port["id"])
	start := time.Now()
	stop()
	if took := time.Since(start); took > 10*time.Second {
		t.Error("ended after", took)
	}
}

// The links of a page are not followed: they may lead to anybody, and requests carry a token.
func TestLinksElsewhere(t *testing.T) {
	var visits atomic.Int64
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { visits.Add(1) }))
	defer thief.Close()
	c, h := newCloud(t), probetest.NewHost(t)
	port := c.vm()
	node := add(t, h, "Name", "x", "Type", "internal", "ExtID.iface-id", port["id"])
	var pages atomic.Int64
	c.breaks(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v2.0/ports" || pages.Add(1) > 1 {
			return false
		}
		_, _ = io.WriteString(w, `{"ports":[],"ports_links":[{"rel":"next","href":"`+thief.URL+`/v2.0/ports"}]}`)
		return true
	})
	run(t, h, c.config())
	becomes(t, h, node, soon, "Neutron.PortID", port["id"])
	if visits.Load() != 0 {
		t.Error("it was followed")
	}
}
