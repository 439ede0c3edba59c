package etcd

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// grown returns the configuration of three, of whom the first one holds key /x because it was alone before.
func grown(t *testing.T, files *TLS) []Config {
	t.Helper()
	cfgs := cluster(t, 3, files)
	alone := cfgs[0]
	alone.Peers = nil
	first := begin(t, alone, quiet())
	first.wait(t)
	if err := first.Put(t.Context(), "/x", []byte("1")); err != nil {
		t.Fatal(err)
	}
	first.stop()
	return cfgs
}

// Members without data wait for the one that has some, and join it.
func TestEmptyMembersWait(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]*TLS{"clear text": nil, "TLS": certificates(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfgs := grown(t, files)
			var log lockedBuffer
			second, third := begin(t, cfgs[1], slog.New(slog.NewTextHandler(&log, nil))), begin(t, cfgs[2], quiet())
			for _, m := range []*member{second, third} {
				eventually(t, 10*time.Second, "a reason", func() bool {
					reason := m.Status().Reason
					return strings.Contains(reason, "m0 at") && strings.Contains(reason, "taken out of etcd.peers") && !strings.Contains(reason, "m1") && !strings.Contains(reason, "m2")
				})
			}
			eventually(t, 2*patience, "the same in the log", func() bool { return strings.Contains(log.String(), "etcd waits: no data here, and no answer from m0") })
			if n := strings.Count(log.String(), "etcd waits"); n != 1 {
				t.Errorf("said %d times: %s", n, log.String())
			}
			select {
			case <-second.Ready():
				t.Fatal("two without data founded a cluster")
			default:
			}
			first := begin(t, cfgs[0], quiet())
			for _, m := range []*member{first, second, third} {
				m.wait(t)
				if v, _, err := m.Get(t.Context(), "/x"); err != nil || string(v) != "1" {
					t.Errorf("%q %v", v, err)
				}
			}
			if n := len(first.Status().Cluster.Members); n != 3 {
				t.Errorf("%d members", n)
			}
		})
	}
}

// Three that are started one after the other found one cluster, soon after the last one is there.
func TestFoundingIsQuick(t *testing.T) {
	t.Parallel()
	cfgs := cluster(t, 3, certificates(t))
	var members []*member
	for i, c := range cfgs {
		members = append(members, begin(t, c, quiet()))
		if i == 1 {
			eventually(t, 10*time.Second, "waiting", func() bool { return strings.Contains(members[0].Status().Reason, "m2") })
		}
	}
	begun := time.Now()
	for _, m := range members {
		m.wait(t)
	}
	if took := time.Since(begun); took > 5*time.Second { // 1 to 2 s where nothing else runs
		t.Errorf("took %v", took)
	} else {
		t.Log(took)
	}
	for _, m := range members {
		if id := m.server.Load().Server.Cluster().ID(); id != members[0].server.Load().Server.Cluster().ID() {
			t.Error("more than one cluster")
		}
	}
}

// Members that do not have the same list would found different clusters.
func TestListsOfPeersDiffer(t *testing.T) {
	t.Parallel()
	cfgs := cluster(t, 3, nil)
	cfgs[1].Peers = maps.Clone(cfgs[1].Peers)
	delete(cfgs[1].Peers, "m2")
	for _, m := range []*member{begin(t, cfgs[0], quiet()), begin(t, cfgs[1], quiet())} {
		eventually(t, 10*time.Second, "a reason", func() bool { return strings.Contains(m.Status().Reason, "make them the same") })
	}
}

// The one that is gone for good is taken out of the list.
func TestFoundingWithoutOne(t *testing.T) {
	t.Parallel()
	cfgs := cluster(t, 3, nil)
	waiting := begin(t, cfgs[0], quiet())
	eventually(t, 10*time.Second, "waiting", func() bool { return waiting.Status().Reason != "" })
	waiting.stop()
	two := maps.Clone(cfgs[0].Peers)
	delete(two, "m2")
	var members []*member
	for _, c := range cfgs[:2] {
		c.Peers = two
		members = append(members, begin(t, c, quiet()))
	}
	for _, m := range members {
		m.wait(t)
	}
}

// What looks like a peer but is none, or is not yet what it will be, does not let a cluster be founded.
func TestStrangeAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status       int
		header, body string
		want         string
	}{
		"another service":     {200, "", "<html>", "invalid character"},
		"an error":            {404, "", "", "404"},
		"nobody":              {200, "", "[]", "without members"},
		"other peers":         {503, "x=http://192.0.2.1:1", "", "make them the same"},
		"still on loopback":   {200, "", `[{"name":"m1","peerURLs":["https://127.0.0.1:1"],"clientURLs":["http://127.0.0.1:2"]}]`, "no longer at https://127.0.0.1:1"},
		"takes no requests":   {200, "", `[{"name":"m1","peerURLs":["http://127.0.0.1:1"]}]`, "takes requests"},
		"founded with others": {200, "", `[{"name":"m1","peerURLs":["http://127.0.0.1:1"]},{"name":"m0","peerURLs":["ME"]}]`, "was founded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := cluster(t, 2, nil)[0]
			at := strings.TrimPrefix(cfg.Peers["m1"], "http://")
			l, err := net.Listen("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if c.header != "" {
					w.Header().Set(waitingHeader, c.header)
				}
				w.WriteHeader(c.status)
				fmt.Fprint(w, strings.ReplaceAll(c.body, "ME", cfg.Peers["m0"]))
			})}
			go func() { _ = server.Serve(l) }()
			t.Cleanup(func() { _ = server.Close() })
			m := begin(t, cfg, quiet())
			eventually(t, 10*time.Second, "a reason", func() bool { return m.Status().Reason != "" })
			if reason := m.Status().Reason; !strings.Contains(reason, c.want) {
				t.Errorf("%q", reason)
			}
		})
	}
}
