package resource

import "slices"

// CaptureTypesOf returns the ways to capture that nodes of a type allow, the default first; none when nothing can be captured there.
// The types of interfaces are more than the public API knows: the taps of virtual machines are among them.
func CaptureTypesOf(nodeType string) []string {
	switch nodeType {
	case "ovsbridge":
		return []string{"ovssflow", "pcapsocket", "ovsnetflow", "ovsipfix"}
	case "ovsport":
		return []string{"ovsmirror"}
	case "device", "internal", "veth", "tun", "bridge", "dummy", "gre", "bond", "can", "hsr", "ifb", "macvlan", "macvtap", "vlan", "vxlan",
		"gretap", "ip6gretap", "geneve", "ipoib", "vcan", "ipip", "ipvlan", "lowpan", "ip6tnl", "ip6gre", "sit",
		"tuntap", "tap", "team", "vrf", "wireguard", "vti", "vti6", "xfrm", "nlmon", "netkit", "bareudp", "erspan", "ip6erspan", "ipvtap",
		"macsec", "patch", "openvswitch", "vxcan", "gtp", "rmnet", "batadv", "amt":
		return []string{"afpacket", "pcap", "pcapsocket", "sflow", "netflow", "ebpf"}
	case "host":
		return []string{"sflow", "netflow"}
	}
	return nil
}

// CaptureType is how a capture of type asked is done on nodes of a type: as asked where they allow it, else as is usual for them; "" when it is
// not done at all. A host takes what devices send to it only when that is asked for: everybody's query for all nodes selects hosts, too.
func CaptureType(nodeType, asked string) string {
	types := CaptureTypesOf(nodeType)
	switch {
	case slices.Contains(types, asked):
		return asked
	case len(types) == 0 || nodeType == "host":
		return ""
	}
	return types[0]
}
