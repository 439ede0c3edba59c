package neutron

import (
	"strings"

	"skydive/src/graph"
)

// facts are what others say of a node that tells what it is of Neutron's.
type facts struct {
	name, kind, mac     string
	iface, attached, vm string // ExtID of Open vSwitch: iface-id, attached-mac, vm-uuid
	router, network     string // that a namespace is for
	namespace           bool
	named               bool   // as Neutron's agents and Nova name interfaces
	family              string // the end of the name that qvo, qvb, qbr and tap of an instance share
	first               string // first characters of the port's identifier, if the name has them
}

// ours tells whether the node can be Neutron's at all.
func (f *facts) ours() bool { return f.iface != "" || f.attached != "" || f.named || f.namespace }

const (
	// shortID is how much of an identifier the names of interfaces have room for.
	shortID = 11
	uuidLen = 36
)

// read collects the facts; own is what this probe wrote to the node, which proves nothing.
func read(n *graph.Node, own func(key, value string) bool) facts {
	m := n.Metadata
	f := facts{name: m.Text("Name"), kind: m.Text("Type")}
	if f.kind == "netns" {
		f.ofNamespace()
		return f
	}
	f.mac = strings.ToLower(m.Text("MAC"))
	if _, there := m.Get("ExtID"); there {
		said := func(key string) string {
			if s := m.Text(key); s != "" && !own(key, s) {
				return s
			}
			return ""
		}
		f.iface = strings.ToLower(said("ExtID.iface-id"))
		f.attached, f.vm = strings.ToLower(said("ExtID.attached-mac")), said("ExtID.vm-uuid")
	}
	if f.kind != "ovsport" && f.kind != "ovsbridge" { // these share the names of their interfaces
		f.ofInterface()
	}
	return f
}

func (f *facts) ofNamespace() {
	use, id, ok := strings.Cut(f.name, "-")
	if !ok || len(id) < uuidLen || !isHex(id[:uuidLen]) || len(id) > uuidLen && id[uuidLen] != '_' && id[uuidLen] != '-' {
		return
	}
	id = strings.ToLower(id[:uuidLen])
	switch use {
	case "qrouter", "snat":
		f.router = id
	case "qdhcp", "ovnmeta":
		f.network = id
	default:
		return
	}
	f.namespace = true
}

func (f *facts) ofInterface() {
	if number, ok := strings.CutPrefix(f.name, "vnet"); ok {
		f.named = number != "" && strings.Trim(number, "0123456789") == ""
		return
	}
	for _, prefix := range [...]string{"tap", "qvo", "qvb", "qbr", "qr-", "qg-", "sg-", "ha-", "ns-"} {
		id, ok := strings.CutPrefix(f.name, prefix)
		if !ok || id == "" || !isHex(id) {
			continue
		}
		f.named = true
		if len(id) == shortID {
			f.first = id
			switch prefix {
			case "tap", "qvo", "qvb", "qbr":
				f.family = id
			}
		}
		return
	}
}

func isHex(id string) bool { return strings.Trim(id, "0123456789abcdefABCDEF-") == "" }

// asks adds what Neutron is to be asked for the node.
func (f *facts) asks(w *wanted) {
	switch {
	case f.router != "":
		w.routers.add(f.router)
	case f.network != "":
		w.networks.add(f.network)
	case f.iface != "":
		if isHex(f.iface) && len(f.iface) == uuidLen { // other users of Open vSwitch put names there
			w.ports.add(f.iface)
		}
	case f.attached != "":
		w.macs.add(f.attached)
	case f.named && !strings.HasPrefix(f.name, "qvb") && !strings.HasPrefix(f.name, "qbr"): // the addresses of those are their own
		for _, mac := range f.macs() {
			w.macs.add(mac)
		}
	}
}

// macs are the addresses that the port of an interface may have. That of a tap of libvirt's hides its first byte, which is fa unless
// Neutron is configured otherwise.
func (f *facts) macs() []string {
	switch {
	case f.mac == "":
		return nil
	case f.mac == tapMAC(f.mac) && (strings.HasPrefix(f.name, "tap") || strings.HasPrefix(f.name, "vnet")):
		return []string{"fa" + f.mac[2:], f.mac}
	}
	return []string{f.mac}
}

// tapMAC is the address that libvirt gives the tap of an instance that has another.
func tapMAC(mac string) string { return "fe" + mac[min(2, len(mac)):] }

// match finds the port of a node; inherited is the address that the interface of Open vSwitch at the end of its path is attached to.
func (f *facts) match(i *inventory, inherited string, hosts [2]string) *port {
	if f.iface != "" {
		return i.ports[f.iface]
	}
	macs := []string{f.attached}
	switch {
	case f.attached != "":
	case inherited != "":
		macs[0] = inherited
	case f.named:
		macs = f.macs()
	}
	for _, mac := range macs {
		if p := f.choose(i.byMAC[mac], hosts); p != nil {
			return p
		}
	}
	return nil
}

// choose finds the right one of the ports with the same address, which networks that do not know of each other may have.
func (f *facts) choose(ports []*port, hosts [2]string) *port {
	if len(ports) == 1 {
		return ports[0]
	}
	only := func(ok func(*port) bool) (found *port) {
		for _, p := range ports {
			if ok(p) {
				if found != nil {
					return nil
				}
				found = p
			}
		}
		return found
	}
	if f.first != "" {
		if p := only(func(p *port) bool { return strings.HasPrefix(p.ID, f.first) }); p != nil {
			return p
		}
	}
	return only(func(p *port) bool { return p.Host != "" && (p.Host == hosts[0] || p.Host == hosts[1]) })
}
