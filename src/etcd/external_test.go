package etcd

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// debian starts the distribution's etcd at an address with TLS, and returns what kills it.
func debian(t *testing.T, address, dir string, files *TLS) (kill func()) {
	t.Helper()
	program, err := exec.LookPath("etcd")
	if err != nil {
		if os.Getenv("SKYDIVE_CI") == "1" {
			t.Fatal("no etcd: install etcd-server")
		}
		t.Skip("no etcd: install etcd-server")
	}
	peer := "http://" + freeListen(t)
	cmd := exec.Command(program, "--data-dir", dir, "--listen-client-urls", "https://"+address, "--advertise-client-urls", "https://"+address,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer,
		"--client-cert-auth", "--trusted-ca-file", files.CAFile, "--cert-file", files.CertFile, "--key-file", files.KeyFile)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // killed
	}()
	kill = func() {
		_ = cmd.Process.Signal(syscall.SIGKILL) // it may be gone
		<-done
	}
	t.Cleanup(kill)
	return kill
}

// The distribution's etcd, with TLS, users of its own and no rights beyond the keys; it crashes in between.
func TestExternalEtcd(t *testing.T) {
	t.Parallel()
	files, address, dir := certificates(t), freeListen(t), t.TempDir()
	kill := debian(t, address, dir, files)
	secure, err := files.client()
	if err != nil {
		t.Fatal(err)
	}
	root, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + address}, TLS: secure, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ctx := t.Context()
	for _, step := range []func() error{
		func() error { _, err := root.UserAdd(ctx, "root", "r"); return err },
		func() error { _, err := root.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := root.RoleAdd(ctx, "keys"); return err },
		func() error {
			_, err := root.RoleGrantPermission(ctx, "keys", "/", clientv3.GetPrefixRangeEnd("/"), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := root.UserAdd(ctx, "skydive", "s3cret"); return err },
		func() error { _, err := root.UserGrantRole(ctx, "skydive", "keys"); return err },
		func() error { _, err := root.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	cfg := Config{Servers: []string{"https://skydive:s3cret@" + address}, TLS: files, ClientTimeout: 5 * time.Second}
	s, _ := run(t, cfg)
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	events := make(chan Event, 100)
	go func() { _ = s.Watch(watching, "/x/", func(e Event) { events <- e }) }()
	for !next(t, events).Synced {
	}
	a := elect(t, s, "x", "a")
	a.expect(t, true, 5*time.Second)
	began := time.Now()
	if err := s.Create(ctx, "/x/ttl", []byte("1"), 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if e := next(t, events); e.Key != "/x/ttl" {
		t.Errorf("%+v", e)
	}
	if st := s.Status(); st.Reason != "" || len(st.Cluster.Members) != 1 || !st.Cluster.Members[0].Leader || st.Cluster.Size == 0 {
		t.Errorf("%+v", st)
	}
	kill()
	a.expect(t, false, termSeconds*time.Second)
	if st := s.Status(); !strings.Contains(st.Reason, address) || strings.Contains(st.Reason, "s3cret") {
		t.Errorf("%+v", st)
	}
	restarted := time.Now()
	debian(t, address, dir, files)
	a.expect(t, true, 20*time.Second)
	if err := s.Put(ctx, "/x/after", []byte("2")); err != nil {
		t.Error(err)
	}
	for e := next(t, events); e.Key != "/x/after"; e = next(t, events) {
		if e.Value == nil && !e.Synced {
			t.Errorf("%+v", e)
		}
	}
	for e := next(t, events); e.Key != "/x/ttl" || e.Value != nil; e = next(t, events) {
	}
	// Its lease began anew with the server, and would have let it live longer.
	if now := time.Now(); now.Before(began.Add(10*time.Second-100*time.Millisecond)) || now.After(restarted.Add(10*time.Second)) {
		t.Errorf("ended %v after it was made, %v after the restart", now.Sub(began), now.Sub(restarted))
	}
	// Whoever has no certificate of the authority is told so.
	stranger := certificates(t)
	m := begin(t, Config{Servers: cfg.Servers, TLS: stranger}, quiet())
	eventually(t, 20*time.Second, "reason", func() bool { return m.Status().Reason != "" })
	if reason := m.Status().Reason; !strings.Contains(reason, "certificate") && !strings.Contains(reason, "x509") {
		t.Errorf("a stranger is told %q", reason)
	}
}
