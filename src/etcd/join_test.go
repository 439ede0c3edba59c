package etcd

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// eventually waits for a condition.
func eventually(t *testing.T, within time.Duration, what string, met func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); !met(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in %v", what, within)
		}
	}
}

// One analyzer becomes three: what it holds stays, and the others get it.
func TestClusterGrows(t *testing.T) {
	t.Parallel()
	cfgs := cluster(t, 3, certificates(t))
	alone := cfgs[0]
	alone.Peers = nil
	first := begin(t, alone, quiet())
	first.wait(t)
	if err := first.Put(t.Context(), "/x", []byte("1")); err != nil {
		t.Fatal(err)
	}
	first.stop()
	var members []*member
	for i, c := range cfgs {
		c.Peers = maps.Clone(c.Peers)
		for j := i + 1; j < len(cfgs) && i < 2; j++ {
			if i == 1 {
				delete(c.Peers, fmt.Sprintf("m%d", j)) // added later
			}
		}
		m := begin(t, c, quiet())
		m.wait(t)
		members = append(members, m)
		if v, _, err := m.Get(t.Context(), "/x"); err != nil || string(v) != "1" {
			t.Fatalf("m%d: %q %v", i, v, err)
		}
	}
	// Any one may go.
	members[0].stop()
	eventually(t, 10*time.Second, "writing without the first", func() bool { return members[2].Put(t.Context(), "/y", []byte("2")) == nil })
	if v, _, err := members[1].Get(t.Context(), "/y"); err != nil || string(v) != "2" {
		t.Errorf("%q %v", v, err)
	}
}

// Of two members one is lost for good: the other says what to do, and has all it had when that is done. A third one is removed.
func TestLastMemberGoesOnAlone(t *testing.T) {
	t.Parallel()
	cfgs := cluster(t, 2, nil)
	first, second := begin(t, cfgs[0], quiet()), begin(t, cfgs[1], quiet())
	first.wait(t)
	second.wait(t)
	if err := first.Put(t.Context(), "/x", []byte("1")); err != nil {
		t.Fatal(err)
	}
	first.stop()
	second.stop()
	var log lockedBuffer
	again := begin(t, cfgs[0], slog.New(slog.NewTextHandler(&log, nil)))
	eventually(t, 20*time.Second, "advice", func() bool { return strings.Contains(again.Status().Reason, aloneMark) })
	eventually(t, leaderLimit+5*time.Second, "the same in the log", func() bool { return strings.Contains(log.String(), aloneMark) })
	again.stop()
	if n := strings.Count(log.String(), aloneMark); n != 1 {
		t.Errorf("said %d times: %s", n, log.String())
	}
	if err := os.WriteFile(filepath.Join(cfgs[0].DataDir, aloneMark), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	alone := begin(t, cfgs[0], quiet())
	alone.wait(t)
	if v, _, err := alone.Get(t.Context(), "/x"); err != nil || string(v) != "1" {
		t.Errorf("%q %v", v, err)
	}
	if _, err := os.Stat(filepath.Join(cfgs[0].DataDir, aloneMark)); err == nil {
		t.Error("it would do so at each start")
	}
	// The lost one comes back with what it had: both say so. Without it, it joins.
	lost := begin(t, cfgs[1], quiet())
	eventually(t, 20*time.Second, "advice", func() bool { return lost.Status().Reason != "" })
	t.Log(lost.Status().Reason)
	lost.stop()
	if err := os.RemoveAll(filepath.Join(cfgs[1].DataDir, "member")); err != nil {
		t.Fatal(err)
	}
	joined := begin(t, cfgs[1], quiet())
	joined.wait(t)
	if v, _, err := joined.Get(t.Context(), "/x"); err != nil || string(v) != "1" {
		t.Errorf("%q %v", v, err)
	}
}

// Two that were started apart are not merged: it is said. A member that the configuration does not name can be removed.
func TestStrangersAreSaid(t *testing.T) {
	t.Parallel()
	cfgs := cluster(t, 2, nil)
	var members []*member
	for i, c := range cfgs {
		apart := c
		apart.Peers = map[string]string{c.Name: c.Peers[c.Name]}
		m := begin(t, apart, quiet())
		m.wait(t)
		for n := range 3 * i {
			if err := m.Put(t.Context(), fmt.Sprintf("/capture/%d", n), []byte("1")); err != nil {
				t.Fatal(err)
			}
		}
		m.stop()
	}
	for _, c := range cfgs {
		members = append(members, begin(t, c, quiet()))
	}
	for i, m := range members {
		m.wait(t)
		want := []string{"a cluster of its own, with 3 keys at", "here are 0 keys", "move " + cfgs[0].DataDir + " away"}
		if i == 1 {
			want = []string{"a cluster of its own, with 0 keys at", "here are 3 keys", "move its data directory away"}
		}
		eventually(t, 10*time.Second, "advice", func() bool {
			m.compare(t.Context(), m.server.Load())
			return strings.Contains(m.Status().Reason, want[0])
		})
		for _, part := range want {
			if reason := m.Status().Reason; !strings.Contains(reason, part) {
				t.Errorf("%q is not in %q", part, reason)
			}
		}
	}
}

func TestMembersAreRemoved(t *testing.T) {
	t.Parallel()
	cfgs := cluster(t, 3, nil)
	var members []*member
	for _, c := range cfgs {
		members = append(members, begin(t, c, quiet()))
	}
	for _, m := range members {
		m.wait(t)
	}
	at := "http://" + cfgs[0].Listen + membersPath
	status, text := call(t, "GET", at, nil)
	var list struct {
		Members []struct{ ID, Name string }
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil || status != 200 || len(list.Members) != 3 {
		t.Fatalf("%d %s %v", status, text, err)
	}
	members[2].stop()
	for _, m := range list.Members {
		if m.Name == "m2" {
			eventually(t, 20*time.Second, "removal", func() bool { status, _ := call(t, "DELETE", at+"/"+m.ID, nil); return status == 204 })
		}
	}
	if status, _ := call(t, "DELETE", at+"/1", nil); status != 404 {
		t.Errorf("a member that is not there: %d", status)
	}
	if st := members[0].Status(); len(st.Cluster.Members) != 2 {
		t.Errorf("%+v", st)
	}
}

// A member whose disk is lost comes back with an empty directory and gets all from the others.
func TestMemberLosesItsData(t *testing.T) {
	t.Parallel()
	cfgs := cluster(t, 3, nil)
	var members []*member
	for _, c := range cfgs {
		members = append(members, begin(t, c, quiet()))
	}
	for _, m := range members {
		m.wait(t)
	}
	if err := members[0].Put(t.Context(), "/x", []byte("1")); err != nil {
		t.Fatal(err)
	}
	members[0].stop()
	if err := os.RemoveAll(filepath.Join(cfgs[0].DataDir, "member")); err != nil {
		t.Fatal(err)
	}
	again := begin(t, cfgs[0], quiet())
	again.wait(t)
	if v, _, err := again.Get(t.Context(), "/x"); err != nil || string(v) != "1" {
		t.Errorf("%q %v", v, err)
	}
	// It counts: another may go now.
	members[1].stop()
	eventually(t, 10*time.Second, "writing without the second", func() bool { return again.Put(t.Context(), "/y", []byte("2")) == nil })
}
