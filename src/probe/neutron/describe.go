package neutron

import "skydive/src/field"

// port renders what is said of the interfaces of a port.
func (i *inventory) port(p *port) field.Object {
	o := object{"PortID", p.ID, "NetworkID", p.Network}
	o.text("PortName", p.Name)
	o.text("TenantID", p.Tenant)
	o.text("TenantName", i.projects[p.Tenant])
	o.text("DeviceID", p.Device)
	o.text("DeviceOwner", p.Owner)
	o.text("HostID", p.Host)
	o.network(i.networks[p.Network])
	if p.ofRouter() {
		o.text("RouterID", p.Device)
		if r := i.routers[p.Device]; r != nil {
			o.text("RouterName", r.Name)
		}
	}
	v4, v6 := i.addresses(p)
	o.list("IPV4", v4)
	o.list("IPV6", v6)
	o.list("FloatingIPs", i.floating[p.ID])
	return field.Make(o...)
}

// namespace renders what is said of the namespace of a router or of a DHCP server, nil when Neutron has none such.
func (i *inventory) namespace(f *facts) field.Object {
	var o object
	tenant := ""
	if r := i.routers[f.router]; r != nil {
		o = object{"RouterID", r.ID}
		o.text("RouterName", r.Name)
		tenant = r.Tenant
	} else if n := i.networks[f.network]; n != nil {
		o = object{"NetworkID", n.ID}
		o.network(n)
		tenant = n.Tenant
	} else {
		return nil
	}
	o.text("TenantID", tenant)
	o.text("TenantName", i.projects[tenant])
	return field.Make(o...)
}

// object is alternating keys and values; what is empty is left out.
type object []any

func (o *object) text(key, value string) {
	if value != "" {
		*o = append(*o, key, value)
	}
}

func (o *object) list(key string, value []string) {
	if len(value) > 0 {
		*o = append(*o, key, value)
	}
}

func (o *object) network(n *network) {
	if n == nil {
		return
	}
	o.text("NetworkName", n.Name)
	if id := n.segment(); id != 0 {
		*o = append(*o, "VNI", id)
	}
}
