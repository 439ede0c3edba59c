package resource

// CaptureTypesOf returns the ways to capture that nodes of a type allow, the default first; none when nothing can be captured there.
// The types of interfaces are more than the public API knows: the taps of virtual machines are among them.
func CaptureTypesOf(nodeType string) []string {
	switch nodeType {
	case "ovsbridge":
		return []string{"ovssflow", "pcapsocket", "ovsnetflow"}
	case "ovsport":
		return []string{"ovsmirror"}
	case "device", "internal", "veth", "tun", "bridge", "dummy", "gre", "bond", "can", "hsr", "ifb", "macvlan", "macvtap", "vlan", "vxlan",
		"gretap", "ip6gretap", "geneve", "ipoib", "vcan", "ipip", "ipvlan", "lowpan", "ip6tnl", "ip6gre", "sit",
		"tuntap", "tap", "team", "vrf", "wireguard", "vti", "vti6", "xfrm", "nlmon", "netkit", "bareudp", "erspan", "ip6erspan", "ipvtap",
		"macsec", "patch", "openvswitch", "vxcan", "gtp", "rmnet", "batadv", "amt":
		return []string{"afpacket", "pcap", "pcapsocket", "sflow", "ebpf"}
	}
	return nil
}
