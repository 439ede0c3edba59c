package ovs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"skydive/src/ovs"
	"skydive/src/ovs/ovstest"
)

// follow runs a client until the test ends and returns its batches.
func follow(t testing.TB, o ovs.Options, tables ...ovs.Table) (*ovs.Client, <-chan ovs.Batch, <-chan error) {
	t.Helper()
	if o.Database == "" {
		o.Database = "Open_vSwitch"
	}
	c := ovs.New(o)
	batches := make(chan ovs.Batch, 100)
	c.Monitor(func(b ovs.Batch) error { batches <- b; return nil }, tables...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ended := make(chan struct{})
	go func() { done <- c.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return c, batches, done
}

func next[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came within 10 s")
		panic("unreachable")
	}
}

func TestRootFollowsAndChangesARealDatabase(t *testing.T) {
	server := ovstest.Start(t, "", ovstest.NoSwitch)
	server.Vsctl(t, "--no-wait", "add-br", "br0")
	c, batches, _ := follow(t, ovs.Options{Address: server.DB},
		ovs.Table{Name: "Bridge"}, ovs.Table{Name: "Port", Columns: []string{"name", "trunks", "no_such_column"}}, ovs.Table{Name: "NoSuchTable"})
	first := next(t, batches)
	if !first.Initial || len(first.Changes) != 2 {
		t.Fatalf("first batch: %+v", first)
	}
	bridge := first.Changes[0]
	if bridge.Table != "Bridge" || bridge.New.Text("name") != "br0" || len(bridge.New.UUIDs("ports")) != 1 {
		t.Fatalf("bridge: %+v", bridge)
	}
	if !c.Has("Bridge", "ipfix") || c.Has("Bridge", "nothing") {
		t.Error("Has is wrong about columns of Bridge")
	}
	results, err := c.Transact(t.Context(),
		ovs.Insert("Interface", "i", ovs.Row{"name": "p1", "type": "internal"}),
		ovs.Insert("Port", "p", ovs.Row{"name": "p1", "interfaces": ovs.NamedUUID("i"), "trunks": []int64{3, 1}}),
		ovs.MutateRows("Bridge", []ovs.Mutation{ovs.Mutate("ports", "insert", ovs.NamedUUID("p"))}, ovs.Where("name", "==", "br0")),
	)
	if err != nil || results[2].Count != 1 {
		t.Fatalf("%+v, %v", results, err)
	}
	b := next(t, batches)
	if b.Initial || len(b.Changes) != 2 {
		t.Fatalf("second batch: %+v", b)
	}
	if c := b.Changes[0]; len(c.Old.UUIDs("ports")) != 1 || len(c.New.UUIDs("ports")) != 2 || c.New.Text("name") != "br0" {
		t.Errorf("bridge changed to %+v", c)
	}
	if c := b.Changes[1]; c.UUID != results[1].UUID || c.Old != nil || len(c.New.Ints("trunks")) != 2 || c.New.Ints("trunks")[0] != 1 {
		t.Errorf("port: %+v", c)
	}
}

func TestRootTransportsAndRestarts(t *testing.T) {
	server := ovstest.Start(t, "", ovstest.NoSwitch, ovstest.TCP, ovstest.TLS)
	server.Vsctl(t, "--no-wait", "add-br", "br0")
	address, ca, cert, key := server.TLS(t)
	certificates := func() *tls.Config {
		pem, err := os.ReadFile(ca)
		if err != nil {
			t.Error(err)
		}
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Error(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
	}
	var clients []<-chan error
	for _, o := range []ovs.Options{
		{Address: server.DB}, {Address: server.TCP(t)}, {Address: address, TLS: certificates},
	} {
		_, batches, done := follow(t, o, ovs.Table{Name: "Bridge"})
		if b := next(t, batches); len(b.Changes) != 1 {
			t.Fatalf("%s: %+v", o.Address, b)
		}
		clients = append(clients, done)
	}
	for name, o := range map[string]ovs.Options{
		"another authority": {Address: address, TLS: func() *tls.Config {
			cfg := certificates()
			cfg.RootCAs = x509.NewCertPool()
			return cfg
		}},
		"another name":    {Address: address, TLS: func() *tls.Config { cfg := certificates(); cfg.ServerName = "db.example"; return cfg }},
		"no certificate":  {Address: address, TLS: func() *tls.Config { cfg := certificates(); cfg.Certificates = nil; return cfg }},
		"nothing for TLS": {Address: address},
		"no TLS":          {Address: server.TCP(t), TLS: certificates, Database: "No_Such"},
	} {
		_, _, done := follow(t, o, ovs.Table{Name: "Bridge"})
		if err := next(t, done); err == nil {
			t.Errorf("%s: connected", name)
		}
	}
	server.KillDB(t)
	for _, done := range clients {
		if err := next(t, done); err == nil {
			t.Error("the server is gone and the client is content")
		}
	}
	server.StartDB(t)
	_, batches, _ := follow(t, ovs.Options{Address: server.DB}, ovs.Table{Name: "Bridge"})
	if b := next(t, batches); len(b.Changes) != 1 {
		t.Errorf("after the restart: %+v", b)
	}
}

func TestRootAHungServer(t *testing.T) {
	server := ovstest.Start(t, "", ovstest.NoSwitch)
	_, batches, done := follow(t, ovs.Options{Address: server.DB, Timeout: 100 * time.Millisecond}, ovs.Table{Name: "Bridge"})
	next(t, batches)
	server.PauseDB(t)
	if err := next(t, done); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("%v", err)
	}
}

func TestRootTransactions(t *testing.T) {
	server := ovstest.Start(t, "", ovstest.NoSwitch)
	c, batches, _ := follow(t, ovs.Options{Address: server.DB}, ovs.Table{Name: "Open_vSwitch", Columns: []string{"external_ids"}})
	root := next(t, batches).Changes[0].UUID
	ctx := t.Context()
	do := func(ops ...ovs.Operation) []ovs.Result {
		t.Helper()
		results, err := c.Transact(ctx, ops...)
		if err != nil {
			t.Fatal(err)
		}
		return results
	}
	do(ovs.Update("Open_vSwitch", ovs.Row{"external_ids": map[string]string{"a": "1", "b": "2"}}, ovs.Is(root)), ovs.Comment("a test"))
	do(ovs.MutateRows("Open_vSwitch", []ovs.Mutation{
		ovs.Mutate("external_ids", "delete", []string{"a"}), ovs.Mutate("external_ids", "insert", map[string]string{"c": "3"}),
	}, ovs.Is(root)))
	row := do(ovs.Select("Open_vSwitch", []string{"external_ids"}, ovs.Where("external_ids", "includes", map[string]string{"b": "2"})))[0].Rows
	if len(row) != 1 || len(row[0].Map("external_ids")) != 2 || row[0].MapText("external_ids", "c") != "3" {
		t.Errorf("selected: %v", row)
	}
	// What a transaction changed has reached the handler when it returns.
	if n := len(batches); n != 2 {
		t.Errorf("%d batches", n)
	}
	do(ovs.Wait("Open_vSwitch", 0, []string{"external_ids"}, "==", []ovs.Row{{"external_ids": map[string]string{"b": "2", "c": "3"}}}, ovs.Is(root)))
	for name, ops := range map[string][]ovs.Operation{
		"operation 1: ": {ovs.Comment("x"), ovs.Insert("Bridge", "", ovs.Row{"no_such": 1})},
		"operation 0: ": {ovs.Wait("Open_vSwitch", 0, []string{"external_ids"}, "==", []ovs.Row{{"external_ids": map[string]string{}}}, ovs.Is(root))},
		"transaction: constraint violation: ": { // two rows of one name: found when all is done
			ovs.MutateRows("Open_vSwitch", []ovs.Mutation{ovs.Mutate("bridges", "insert", []any{ovs.NamedUUID("x"), ovs.NamedUUID("y")})}, ovs.Is(root)),
			ovs.Insert("Bridge", "x", ovs.Row{"name": "same"}), ovs.Insert("Bridge", "y", ovs.Row{"name": "same"}),
		},
	} {
		if _, err := c.Transact(ctx, ops...); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q in it", err, name)
		}
	}
}

func TestRootNothingIsLeftBehind(t *testing.T) {
	server := ovstest.Start(t, "", ovstest.NoSwitch)
	once := func() {
		c := ovs.New(ovs.Options{Address: server.DB, Database: "Open_vSwitch"})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c.Monitor(func(ovs.Batch) error { cancel(); return nil }, ovs.Table{Name: "Bridge"})
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	}
	once()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 50 {
		once()
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	end := time.After(10 * time.Second)
	for runtime.NumGoroutine() > goroutines || openFiles(t) > files { // the last ones may be about to end
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%d goroutines and %d files, were %d and %d", runtime.NumGoroutine(), openFiles(t), goroutines, files)
		}
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
