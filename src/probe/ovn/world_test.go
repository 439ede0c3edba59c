package ovn

import (
	"encoding/json"
	"strings"
	"testing"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/ovs"
	"skydive/src/probe"
)

func TestNames(t *testing.T) {
	for column, want := range map[string]string{
		"external_ids": "ExternalIDs", "dhcpv4_options": "Dhcpv4Options", "ha_chassis_group": "HaChassisGroup", "mac": "MAC", "acls": "ACLs",
		"ip_prefix": "IPPrefix", "ipv6_ra_configs": "Ipv6RaConfigs", "allowed_ext_ips": "AllowedExtIPs", "ip_port_mappings": "IPPortMappings",
		"qos_rules": "QOSRules", "dns_records": "DNSRecords", "vips": "Vips", "nat": "Nat", "ssl": "SSL", "nb_cfg": "NbCfg", "_uuid": "UUID", "": "",
	} {
		if got := camelCase(column); got != want {
			t.Errorf("%s: %s, want %s", column, got, want)
		}
	}
}

func TestNested(t *testing.T) {
	m := field.Make("a.b", "1", "a.c.d", "2", "a", "scalar", "x", "3", strings.Repeat("y.", 100)+"z", "4", "n.a", "5", "n.a.b", "6")
	got, _ := json.Marshal(nested(m))
	if string(got) != `{"a":"scalar","n":{"a":"5"},"x":"3"}` {
		t.Errorf("%s", got)
	}
}

// FuzzTake: rows and columns of any kind do not stop anything, and leave nothing behind.
func FuzzTake(f *testing.F) {
	f.Add("Logical_Switch", "integer", `{"name":"x","ports":["set",[["uuid","a"],["uuid","b"]]],"external_ids":["map",[["a.b","c"]]]}`, uint8(0xff))
	f.Add("Logical_Switch_Port", "string", `{"name":["set",[]],"options":["map",[["router-port","r"]]]}`, uint8(1))
	f.Add("", "", `{"":[[]],"name":{"a":1},"x":null,"y":1e300,"z":["map",[["`+strings.Repeat("a.", 90)+`",["uuid","u"]]]]}`, uint8(6))
	f.Fuzz(func(t *testing.T, table, kind, text string, bits uint8) {
		var columns ovs.Row
		if columns.UnmarshalJSON([]byte(text)) != nil {
			t.Skip()
		}
		c := ovs.Column{Type: kind, Map: bits&1 != 0, Many: bits&2 != 0, Optional: bits&4 != 0}
		if bits&8 != 0 {
			c.Refs = []string{table}
		}
		schema := ovs.Schema{table: {"missing": c}}
		for name := range columns {
			schema[table][name] = c
		}
		w := newWorld(probe.NewDesired(probe.Env{}))
		w.take(ovs.Batch{Initial: true, Schema: schema, Changes: []ovs.Change{{Table: table, UUID: "u", New: columns}}})
		m := metadata(table, schema[table], "u", columns)
		n := &graph.Node{Element: graph.Element{ID: "n", Metadata: m}}
		encoded, err := n.MarshalJSON()
		if err == nil {
			err = new(graph.Node).UnmarshalJSON(encoded)
		}
		if err != nil {
			t.Errorf("%v: %s", err, encoded)
		}
		w.take(ovs.Batch{Initial: true, Schema: schema})
		if len(w.rows) != 0 {
			t.Errorf("%v", w.rows)
		}
	})
}
