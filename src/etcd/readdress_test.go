package etcd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// A cluster that was formed in clear text comes up with TLS, and again without; where members have moved the log has addresses, too.
func TestClusterGetsTLS(t *testing.T) {
	t.Parallel()
	files := certificates(t)
	for name, form := range map[string]func(*testing.T) []Config{
		"founded": func(t *testing.T) []Config { return cluster(t, 3, nil) },
		"moved": func(t *testing.T) []Config {
			cfgs := cluster(t, 3, nil)
			for i := range 4 { // one after the other
				var members []*member
				for _, c := range cfgs {
					members = append(members, begin(t, c, quiet()))
				}
				for _, m := range members {
					m.wait(t)
				}
				for _, m := range members {
					eventually(t, 10*time.Second, "all addresses", func() bool {
						for _, other := range m.Status().Cluster.Members {
							if other.Peers[0] != m.cfg.Peers[other.Name] {
								return false
							}
						}
						return true
					})
				}
				for _, m := range members {
					m.stop()
				}
				name := fmt.Sprintf("m%d", i) // all have this map
				if at, ok := cfgs[0].Peers[name]; ok {
					cfgs[0].Peers[name] = strings.Replace(at, "127.0.0.1", "localhost", 1)
				}
			}
			return cfgs
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfgs := form(t)
			for round, tls := range []*TLS{nil, files, files, nil} {
				var members []*member
				for _, c := range cfgs {
					c.TLS = tls
					members = append(members, begin(t, c, quiet()))
				}
				for _, m := range members {
					m.wait(t)
				}
				if round == 0 {
					if err := members[0].Put(t.Context(), "/x", []byte("1")); err != nil {
						t.Fatal(err)
					}
				}
				scheme := map[bool]string{true: "https://", false: "http://"}[tls != nil]
				for _, m := range members {
					if v, _, err := m.Get(t.Context(), "/x"); err != nil || string(v) != "1" {
						t.Errorf("round %d: %q %v", round, v, err)
					}
					for _, other := range m.Status().Cluster.Members {
						if !strings.HasPrefix(other.Peers[0], scheme) {
							t.Errorf("round %d: %s is at %s", round, other.Name, other.Peers[0])
						}
					}
				}
				// It counts each of them.
				members[round%3].stop()
				rest := slices.Delete(slices.Clone(members), round%3, round%3+1)
				eventually(t, 10*time.Second, "writing without one", func() bool { return rest[0].Put(t.Context(), "/y", []byte("2")) == nil })
				for _, m := range rest {
					m.stop()
				}
			}
		})
	}
}

// Nothing changes where nothing is to be changed, and what cannot be read is left to etcd.
func TestReaddressLeavesAlone(t *testing.T) {
	t.Parallel()
	cfg := embedded(t, t.TempDir())
	cfg.Peers = map[string]string{"a": "https://192.0.2.1:1", "b": "https://192.0.2.2:1"}
	if changes, err := cfg.readdress(zap.NewNop()); err != nil || changes != nil {
		t.Errorf("no data: %v %v", changes, err)
	}
	for at, want := range map[string]string{
		"http://192.0.2.1:1": "https://192.0.2.1:1", "https://192.0.2.1:1": "", "http://192.0.2.1:2": "", "http://192.0.2.3:1": "", ":": "",
	} {
		if got := cfg.readdressed(at); got != want {
			t.Errorf("%s: %q", at, got)
		}
	}
	if text := cfg.stale([]Member{{Name: "a", Peers: []string{"http://192.0.2.1:1"}}}); !strings.Contains(text, "start this analyzer again") {
		t.Errorf("%q", text)
	}
}
