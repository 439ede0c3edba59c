package ovsdb

import (
	"strings"

	"skydive/src/field"
	"skydive/src/ovs"
)

// pairs collects metadata and leaves out what is empty.
type pairs []any

func (p *pairs) text(key, value string) {
	if value != "" {
		*p = append(*p, key, value)
	}
}

func (p *pairs) integer(key string, n int64) {
	if n > 0 {
		*p = append(*p, key, n)
	}
}

func (p *pairs) object(key string, o field.Object) {
	if len(o) > 0 {
		*p = append(*p, key, o)
	}
}

func (p *pairs) list(key string, l field.List) {
	if len(l) > 0 {
		*p = append(*p, key, l)
	}
}

func texts(m map[string]string) field.Object {
	var p pairs
	for key, value := range m {
		p = append(p, key, value)
	}
	return field.Make(p...)
}

func list[T any](items []T) field.List {
	var l field.List
	for _, item := range items {
		l = append(l, item)
	}
	return l
}

// systemMetadata is what is said of Open vSwitch as a whole.
func systemMetadata(row ovs.Row) field.Object {
	var of, all pairs
	of.text("Version", row.Text("ovs_version"))
	of.text("DBVersion", row.Text("db_version"))
	of.object("OtherConfig", texts(row.Map("other_config")))
	all.object("Ovs", field.Make(of...))
	all.object("ExtID", texts(row.Map("external_ids")))
	return field.Make(all...)
}

func (b *bridge) metadata() field.Object {
	var of pairs
	of.list("Protocols", list(b.row.Strings("protocols")))
	of.text("DatapathType", b.row.Text("datapath_type"))
	of.text("DatapathID", b.row.Text("datapath_id"))
	of.text("FailMode", b.row.Text("fail_mode"))
	of.object("OtherConfig", texts(b.row.Map("other_config")))
	all := pairs{"Name", b.row.Text("name"), "UUID", string(b.uuid), "Type", "ovsbridge"}
	all.object("Ovs", field.Make(of...))
	all.object("ExtID", texts(b.row.Map("external_ids")))
	return field.Make(all...)
}

func (p *port) metadata() field.Object {
	var of pairs
	of.object("OtherConfig", texts(p.row.Map("other_config")))
	all := pairs{"Name", p.row.Text("name"), "UUID", string(p.uuid), "Type", "ovsport"}
	all.text("BondMode", p.row.Text("bond_mode"))
	if mac := p.row.Text("bond_active_slave"); mac != "00:00:00:00:00:00" {
		all.text("BondActiveMember", mac)
	}
	all.text("LACP", p.row.Text("lacp"))
	all.text("VlanMode", p.row.Text("vlan_mode"))
	switch tags := p.row.Ints("tag"); len(tags) {
	case 0:
	case 1:
		all = append(all, "Vlans", tags[0])
	default:
		all.list("Vlans", list(tags))
	}
	all.list("Trunks", list(p.row.Ints("trunks")))
	all.object("Ovs", field.Make(of...))
	all.object("ExtID", texts(p.row.Map("external_ids")))
	return field.Make(all...)
}

// kinds of interfaces, by where they are in the kernel.
type class int

const (
	noDevice class = iota // patch, tunnels, DPDK: nowhere
	internal              // made by Open vSwitch; may be moved to another namespace
	device                // not made by it; is in the namespace of ovs-vswitchd
)

func (i *iface) class() class {
	switch i.row.Text("type") {
	case "internal", "tap":
		return internal
	case "", "system", "afxdp", "afxdp-nonpmd":
		return device
	}
	return noDevice
}

// metadata is what Open vSwitch says of an interface that another probe shows. Of its type it knows better than the kernel only when
// it made the interface.
func (i *iface) metadata() field.Object {
	all := i.common()
	if i.row.Text("type") == "internal" {
		all = append(all, "Type", "internal")
	}
	return field.Make(all...)
}

func (i *iface) common() pairs {
	var of pairs
	options := i.row.Map("options")
	delete(options, "psk") // the key of an IPsec tunnel is nobody's business
	of.object("Options", texts(options))
	of.object("OtherConfig", texts(i.row.Map("other_config")))
	of.text("Error", i.row.Text("error"))
	of.object("Metric", i.counters.total)
	of.object("LastUpdateMetric", i.counters.delta)
	all := pairs{"UUID", string(i.uuid)}
	n, _ := i.row.Int("ofport") // -1: it could not be added to the bridge
	all.integer("OfPort", n)
	all.text("LocalIP", options["local_ip"])
	all.text("RemoteIP", options["remote_ip"])
	all.text("TunEgressIface", i.row.MapText("status", "tunnel_egress_iface"))
	all.text("TunEgressIfaceCarrier", i.row.MapText("status", "tunnel_egress_iface_carrier"))
	all.object("Ovs", field.Make(of...))
	all.object("ExtID", texts(i.row.Map("external_ids")))
	return all
}

// full is what Open vSwitch says of an interface that no other probe shows.
func (i *iface) full() field.Object {
	kind := i.row.Text("type")
	switch {
	case kind == "tap":
		kind = "tuntap" // as the kernel has it
	case i.class() == device:
		kind = "device"
	}
	driver := i.row.MapText("status", "driver_name")
	if driver == "" {
		driver = "openvswitch"
	}
	all := append(i.common(), "Name", i.name, "Type", kind, "Driver", driver)
	all.integer("IfIndex", i.index)
	all.text("MAC", i.mac)
	if state := i.row.Text("link_state"); state != "" {
		all.text("State", strings.ToUpper(state))
	}
	n, _ := i.row.Int("mtu")
	all.integer("MTU", n)
	return field.Make(all...)
}
