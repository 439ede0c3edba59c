package ovsdb

import (
	"testing"
	"time"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/ovs"
	"skydive/src/probe/probetest"
)

// TestWhichNodeIsAnInterface puts one interface of the database beside nodes of the kernel in the namespaces host, a and b.
func TestWhichNodeIsAnInterface(t *testing.T) {
	const mac, other = "02:00:00:00:00:01", "02:00:00:00:00:02"
	type link struct {
		ns, name string
		index    int
		mac      string
		driver   string
	}
	device := func(index int64, mac string) ovs.Row {
		return ovs.Row{"name": "p1", "type": "", "ifindex": index, "mac_in_use": mac, "ofport": int64(1)}
	}
	moved := func(ids map[string]any) ovs.Row {
		return ovs.Row{"name": "p1", "type": "internal", "ifindex": int64(0), "ofport": int64(1), "external_ids": ids}
	}
	attached := map[string]any{"attached-mac": "02:00:00:00:00:01"}
	for _, test := range []struct {
		name  string
		row   ovs.Row
		last  ovs.Row // what was said of it before
		home  string  // namespace of ovs-vswitchd, when that is known
		links []link
		want  int // index of link; -1: none
	}{
		{"name, index and address", device(7, mac), nil, "", []link{{"host", "p1", 7, mac, "veth"}}, 0},
		{"the address tells namespaces apart", device(7, mac), nil, "", []link{{"host", "p1", 7, other, "veth"}, {"a", "p1", 7, mac, "veth"}}, 1},
		{"another address in an unknown namespace", device(7, mac), nil, "", []link{{"host", "p1", 7, other, "veth"}}, -1},
		{"another address in the known namespace", device(7, mac), nil, "a", []link{{"host", "p1", 7, other, "veth"}, {"a", "p1", 7, other, "veth"}}, 1},
		{"no address yet", device(7, ""), nil, "", []link{{"a", "p1", 7, other, "veth"}, {"host", "p1", 7, mac, "veth"}}, 1},
		{"another index", device(7, mac), nil, "host", []link{{"host", "p1", 8, mac, "veth"}}, -1},
		{"another name", device(7, mac), nil, "host", []link{{"host", "p2", 7, mac, "veth"}}, -1},
		{"two that are as likely", device(7, mac), nil, "", []link{{"a", "p1", 7, mac, "veth"}, {"b", "p1", 7, mac, "veth"}}, -1},
		{"no such device", ovs.Row{"name": "p1", "error": "no such device"}, nil, "", []link{{"a", "p1", 7, mac, "veth"}}, -1},
		{"the switch does not run", ovs.Row{"name": "p1"}, nil, "", []link{{"a", "p1", 7, mac, "veth"}, {"host", "p1", 7, mac, "veth"}}, 1},
		{"a tunnel has no device", ovs.Row{"name": "p1", "type": "vxlan", "ifindex": int64(7), "mac_in_use": mac}, nil, "", []link{{"host", "p1", 7, mac, "vxlan"}}, -1},
		{"a patch has none", ovs.Row{"name": "p1", "type": "patch"}, nil, "", []link{{"host", "p1", 7, mac, "veth"}}, -1},

		{"moved, seen before", moved(nil), device(7, mac), "host", []link{{"a", "p1", 7, mac, "tun"}}, 0},
		{"moved and renamed, seen before", moved(nil), device(7, mac), "host", []link{{"a", "eth0", 7, mac, "tun"}}, 0},
		{"moved, its index was taken there", moved(nil), device(7, mac), "host", []link{{"a", "p1", 9, mac, "openvswitch"}}, 0},
		{"moved and renamed, but not by Open vSwitch", moved(nil), device(7, mac), "host", []link{{"a", "eth0", 7, mac, "veth"}}, -1},
		{"moved and renamed, another index", moved(nil), device(7, mac), "host", []link{{"a", "eth0", 9, mac, "tun"}}, -1},
		{"moved, then given another address", moved(nil), device(7, mac), "host", []link{{"a", "p1", 7, other, "tun"}}, 0},
		{"moved, known by the port's address", moved(attached), nil, "host", []link{{"a", "p1", 7, other, "tun"}, {"b", "p1", 9, mac, "tun"}}, 1},
		{"moved and renamed, known by the port's address", moved(attached), nil, "host", []link{{"a", "p1", 7, other, "tun"}, {"b", "eth0", 9, mac, "tun"}}, 1},
		{"moved and renamed, two of its address", moved(attached), nil, "host", []link{{"a", "eth0", 7, mac, "tun"}, {"b", "eth0", 9, mac, "tun"}}, -1},
		{"moved, known by its name", moved(nil), nil, "host", []link{{"a", "p1", 7, other, "tun"}}, 0},
		{"moved, two of its name", moved(nil), nil, "host", []link{{"a", "p1", 7, other, "tun"}, {"b", "p1", 7, other, "tun"}}, -1},
		{"moved, another one of its name where it was", moved(nil), device(7, mac), "host", []link{{"host", "p1", 9, other, "tun"}}, -1},
		{"renamed where it was", moved(nil), device(7, mac), "host", []link{{"host", "p9", 7, mac, "tun"}}, 0},
		{"moved, known by its name, but another address", moved(attached), nil, "host", []link{{"a", "p1", 7, other, "tun"}}, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := probetest.NewHost(t)
			v := newView(&Probe{env: h.Env, metrics: newMetrics(nil)})
			defer v.stopTimers()
			if test.last != nil {
				test.last["type"] = test.row["type"]
				v.takeInterface("u", test.last)
			}
			v.takeInterface("u", test.row)
			i := v.interfaces["u"]
			i.wait = time.Now()
			err := h.Graph.Update("", func(tx *graph.Tx) error {
				owners := map[string]string{"host": h.Env.Root}
				for _, ns := range []string{"a", "b"} {
					n := h.Env.NewNode(field.Make("Type", "netns", "Name", ns, "Path", ns))
					if err := h.Env.AddChild(tx, h.Env.Root, n); err != nil {
						return err
					}
					owners[ns] = n.ID
				}
				v.home = owners[test.home]
				var nodes []string
				for _, l := range test.links {
					n := h.Env.NewNode(field.Make("Name", l.name, "Type", "x", "IfIndex", l.index, "MAC", l.mac, "Driver", l.driver))
					if err := h.Env.AddChild(tx, owners[l.ns], n); err != nil {
						return err
					}
					nodes = append(nodes, n.ID)
				}
				want := ""
				if test.want >= 0 {
					want = nodes[test.want]
				}
				if got := v.find(tx, i); got != want {
					t.Errorf("node %q, want %q of %v", got, want, nodes)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
