package ovn

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/ovs/ovstest"
	"skydive/src/probe"
	"skydive/src/probe/probetest"
)

// changedSchema is that of OVN as another version might have it.
func changedSchema(t *testing.T, change func(tables map[string]any)) string {
	t.Helper()
	text, err := os.ReadFile(nbSchema)
	if err != nil {
		ovstest.Missing(t, nbSchema+" is needed: install the package ovn-central")
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	delete(schema, "cksum")
	change(schema["tables"].(map[string]any))
	if text, err = json.Marshal(schema); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "changed.ovsschema")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRootSchemaOfAnotherVersion(t *testing.T) {
	schema := changedSchema(t, func(tables map[string]any) {
		columns := func(table string) map[string]any { return tables[table].(map[string]any)["columns"].(map[string]any) }
		uuid := func(table string) map[string]any { return map[string]any{"type": "uuid", "refTable": table} }
		columns("Logical_Switch")["quantum_state"] = map[string]any{"type": "string"}
		columns("Logical_Switch")["twins"] = map[string]any{"type": map[string]any{"key": "string", "value": uuid("Teleporter"), "min": 0, "max": "unlimited"}}
		columns("Logical_Switch_Port")["tag"] = map[string]any{"type": map[string]any{"key": "string", "min": 0, "max": 4}} // retyped
		delete(columns("Logical_Switch_Port"), "port_security")
		delete(columns("Logical_Switch"), "forwarding_groups")
		delete(columns("ACL"), "name")
		delete(tables, "QoS")
		delete(columns("Logical_Switch"), "qos_rules")
		tables["Teleporter"] = map[string]any{"isRoot": true, "columns": map[string]any{
			"name":    map[string]any{"type": "string"},
			"exit_ip": map[string]any{"type": map[string]any{"key": "string", "min": 0, "max": 1}},
			"peers":   map[string]any{"type": map[string]any{"key": uuid("Teleporter"), "min": 0, "max": "unlimited"}},
			"energy":  map[string]any{"type": "real"},
		}}
	})
	s := start(t, ovstest.Namespace(t, "ovh-schema"), schema)
	h := host(t)
	run(t, h, Config{Address: s.DB})
	s.transact(`{"op":"insert","table":"Teleporter","uuid-name":"a","row":{"name":"t1","exit_ip":"192.0.2.1","energy":1.5,"peers":["named-uuid","b"]}}`,
		`{"op":"insert","table":"Teleporter","uuid-name":"b","row":{"name":"t2"}}`,
		`{"op":"insert","table":"Logical_Switch_Port","uuid-name":"p","row":{"name":"p1","tag":["set",["x","y"]]}}`,
		`{"op":"insert","table":"ACL","uuid-name":"acl","row":{"priority":1,"direction":"to-lport","match":"1","action":"drop"}}`,
		`{"op":"insert","table":"Logical_Switch","row":{"name":"sw0","quantum_state":"both","twins":["map",[["left",["named-uuid","b"]]]],"ports":["named-uuid","p"],"acls":["named-uuid","acl"]}}`)
	probetest.Eventually(t, 5*time.Second, "all of it", func() bool {
		e := edges(h, "ovn")
		return e["t1 t2"] && e["sw0 t2"] && e["sw0 p1"] && len(e) == 4
	})
	if n := one(h, "Teleporter", "t1"); n == nil || n.Metadata.Text("OVN.Name") != "t1" {
		t.Errorf("%v", n)
	} else if text, _ := json.Marshal(n.Metadata); !strings.Contains(string(text), `"Energy":1.5,"ExitIP":["192.0.2.1"]`) {
		t.Errorf("%s", text)
	}
	if n := one(h, "LogicalSwitch", "sw0"); n.Metadata.Text("OVN.QuantumState") != "both" || n.Metadata.Text("OVN.TwinsMeta.left") == "" {
		t.Errorf("%v", n.Metadata)
	}
	if v, _ := one(h, "LogicalSwitchPort", "p1").Metadata.Lookup("OVN.Tag"); !field.Equal(v, field.List{"x", "y"}) {
		t.Errorf("%v", v)
	}
}

// transact inserts into tables that ovn-nbctl does not know.
func (s nb) transact(operations ...string) {
	s.t.Helper()
	out, err := exec.Command("ovsdb-client", "transact", s.DB, `["`+database+`",`+strings.Join(operations, ",")+`]`).CombinedOutput()
	if err != nil || strings.Contains(string(out), "error") {
		s.t.Fatalf("%v: %s", err, out)
	}
}

func TestRootTransports(t *testing.T) {
	s := start(t, "", nbSchema, ovstest.TCP, ovstest.TLS)
	s.typical()
	address, ca, cert, key := s.TLS(t)
	for name, c := range map[string]Config{
		"tcp":               {Address: s.TCP(t)},
		"tls":               {Address: address, CACert: ca, Cert: cert, Key: key},
		"cluster":           {Address: "tcp:127.0.0.1:1," + s.TCP(t)},
		"unix with slashes": {Address: "unix://" + s.Socket},
	} {
		t.Run(name, func(t *testing.T) {
			h := host(t)
			p, err := New(h.Env, c)
			if err != nil {
				t.Fatal(err)
			}
			h.Run(t, p)
			probetest.Eventually(t, 5*time.Second, "shown", func() bool { return one(h, "LogicalSwitch", "sw1") != nil })
		})
	}
	for name, c := range map[string]Config{
		"no certificate":    {Address: address, CACert: ca},
		"unknown authority": {Address: address, Cert: cert, Key: key},
		"not even TLS":      {Address: address},
		"no such file":      {Address: address, CACert: "/nonexistent"},
	} {
		t.Run(name, func(t *testing.T) {
			c.Expiry = time.Minute
			p, err := New(host(t).Env, c)
			if err != nil {
				t.Fatal(err)
			}
			err = p.Run(t.Context())
			if err == nil || errors.Is(err, probe.ErrUnavailable) {
				t.Errorf("%v", err)
			}
			t.Log(err)
		})
	}
}
