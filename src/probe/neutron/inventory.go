package neutron

import (
	"cmp"
	"net/netip"
	"strings"
)

// inventory is what Neutron has of what this host has. It is never changed once the reader gave it away.
type inventory struct {
	ports    map[string]*port
	byMAC    map[string][]*port
	networks map[string]*network
	subnets  map[string]*subnet
	routers  map[string]*router
	floating map[string][]string // addresses by port
	projects map[string]string   // names
}

type port struct {
	ID       string
	Name     string
	Tenant   string  `json:"tenant_id"`
	Network  string  `json:"network_id"`
	MAC      string  `json:"mac_address"`
	Fixed    []fixed `json:"fixed_ips"`
	Device   string  `json:"device_id"`
	Owner    string  `json:"device_owner"`
	Host     string  `json:"binding:host_id"`
	Revision int64   `json:"revision_number"`
	Updated  string  `json:"updated_at"`
}

type fixed struct {
	Subnet  string `json:"subnet_id"`
	Address string `json:"ip_address"`
}

type network struct {
	ID       string
	Name     string
	Tenant   string    `json:"tenant_id"`
	Segment  int64     `json:"provider:segmentation_id"`
	Segments []segment // of a network that has several
}

type segment struct {
	ID int64 `json:"provider:segmentation_id"`
}

type subnet struct {
	ID   string
	CIDR string
}

type router struct {
	ID     string
	Name   string
	Tenant string `json:"tenant_id"`
}

type floatingIP struct {
	ID      string
	Address string `json:"floating_ip_address"`
	Port    string `json:"port_id"`
}

type project struct{ ID, Name string }

// ofRouter tells whether the port is an interface of a router, or its gateway.
func (p *port) ofRouter() bool {
	return strings.HasPrefix(p.Owner, "network:router_") || strings.HasPrefix(p.Owner, "network:ha_router_")
}

// segment returns the VNI or VLAN of a network, 0 when it has none or none is shown.
func (n *network) segment() int64 {
	id := n.Segment
	for _, s := range n.Segments {
		id = cmp.Or(id, s.ID)
	}
	return id
}

// addresses are those of a port, with the lengths of their subnets, as far as these are known.
func (i *inventory) addresses(p *port) (v4, v6 []string) {
	for _, f := range p.Fixed {
		a, err := netip.ParseAddr(f.Address)
		if err != nil {
			continue
		}
		text := a.String()
		if s := i.subnets[f.Subnet]; s != nil {
			if prefix, err := netip.ParsePrefix(s.CIDR); err == nil && prefix.Addr().BitLen() == a.BitLen() {
				text = netip.PrefixFrom(a, prefix.Bits()).String()
			}
		}
		if a.Is4() {
			v4 = append(v4, text)
		} else {
			v6 = append(v6, text)
		}
	}
	return v4, v6
}
