package netlink

import (
	"slices"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skydive/src/field"
)

// linkInfo is what an RTM_NEWLINK message says of an interface.
type linkInfo struct {
	index      int
	name       string
	altNames   []string
	encap      uint16 // ARPHRD_*
	flags      uint32 // IFF_*
	kind       string // of rtnl_link_ops; "" for hardware
	mtu        uint32
	mac        string
	permMAC    string
	state      uint8 // IF_OPER_*
	master     int   // index in the same namespace; 0: none
	link       int   // index of parent or peer; 0: none
	otherNS    bool  // link is in the namespace that linkNSID stands for
	linkNSID   int32
	bus        string        // of the parent device: "pci", "virtio", …
	busInfo    string        // name of the parent device on its bus
	vfCount    uint32        // virtual functions
	vfs        field.List    // only when they were asked for
	kindFields []field.Entry // metadata that belongs to the kind
}

// parseLink reads an RTM_NEWLINK or RTM_DELLINK message; ok is false when it is none of an interface.
func parseLink(b []byte) (l linkInfo, ok bool) {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC {
		return l, false // AF_BRIDGE: what a bridge says of a port, without most attributes
	}
	l.encap = order.Uint16(b[2:])
	l.index = int(int32(order.Uint32(b[4:])))
	l.flags = order.Uint32(b[8:])
	for kind, v := range attributes(b[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = text(v)
		case unix.IFLA_PROP_LIST:
			for kind, v := range attributes(v) {
				if kind == unix.IFLA_ALT_IFNAME {
					l.altNames = append(l.altNames, text(v))
				}
			}
		case unix.IFLA_MTU:
			l.mtu = u32(v)
		case unix.IFLA_ADDRESS:
			l.mac = hardwareAddr(v)
		case unix.IFLA_PERM_ADDRESS:
			if len(v) >= 6 { // of tunnels it is an IPv4 address
				l.permMAC = hardwareAddr(v)
			}
		case unix.IFLA_OPERSTATE:
			l.state = u8(v)
		case unix.IFLA_MASTER:
			l.master = int(int32(u32(v)))
		case unix.IFLA_LINK:
			l.link = int(int32(u32(v)))
		case unix.IFLA_LINK_NETNSID:
			// Negative: the namespace has no number here, or is not to be seen.
			l.otherNS, l.linkNSID = true, int32(u32(v))
		case unix.IFLA_PARENT_DEV_NAME:
			l.busInfo = text(v)
		case unix.IFLA_PARENT_DEV_BUS_NAME:
			l.bus = text(v)
		case unix.IFLA_WIRELESS:
			return l, false // an event of a wireless driver, which says nothing else
		case unix.IFLA_NUM_VF:
			l.vfCount = u32(v)
		case unix.IFLA_VFINFO_LIST:
			l.vfs = parseVFs(v)
		case unix.IFLA_XDP:
			l.parseXDP(v)
		case unix.IFLA_LINKINFO:
			l.parseLinkInfo(v)
		}
	}
	return l, l.index > 0 && l.name != ""
}

func (l *linkInfo) parseLinkInfo(b []byte) {
	var data, slaveData []byte
	var slaveKind string
	for kind, v := range attributes(b) {
		switch kind {
		case unix.IFLA_INFO_KIND:
			l.kind = text(v)
		case unix.IFLA_INFO_DATA:
			data = v
		case unix.IFLA_INFO_SLAVE_KIND:
			slaveKind = text(v)
		case unix.IFLA_INFO_SLAVE_DATA:
			slaveData = v
		}
	}
	switch l.kind {
	case "vlan":
		for kind, v := range attributes(data) {
			if kind == unix.IFLA_VLAN_ID {
				l.add("Vlan", int64(u16(v)))
			}
		}
	case "bond":
		for kind, v := range attributes(data) {
			if kind == unix.IFLA_BOND_MODE {
				l.add("BondMode", netlink.BondMode(u8(v)).String())
			}
		}
	case "vxlan":
		l.add("Vxlan", parseVXLAN(data))
		for kind, v := range attributes(data) {
			if kind == unix.IFLA_VXLAN_LINK { // instead of IFLA_LINK
				l.link = int(int32(u32(v)))
			}
		}
	}
	if slaveKind == "bond" {
		l.add("BondSlave", parseBondSlave(slaveData))
	}
}

func (l *linkInfo) add(key string, v field.Value) {
	l.kindFields = append(l.kindFields, field.Entry{Key: key, Value: v})
}

func (l *linkInfo) parseXDP(b []byte) {
	var mode uint8
	var program uint32
	for kind, v := range attributes(b) {
		switch kind {
		case unix.IFLA_XDP_ATTACHED:
			mode = u8(v)
		case unix.IFLA_XDP_PROG_ID:
			program = u32(v)
		}
	}
	if mode > 0 && int(mode) < len(xdpModes) {
		l.add("XDP", field.Make("Mode", xdpModes[mode], "ProgID", program))
	}
}

// xdpModes are XDP_ATTACHED_* of linux/if_link.h.
var xdpModes = [...]string{"", "driver", "generic", "hardware", "multiple"}

// parseVXLAN reads IFLA_VXLAN_* of linux/if_link.h. Remote is also the multicast group, as for the ip command "group".
func parseVXLAN(b []byte) field.Object {
	o := make(map[string]any)
	for kind, v := range attributes(b) {
		switch kind {
		case unix.IFLA_VXLAN_ID:
			o["ID"] = int64(u32(v))
		case unix.IFLA_VXLAN_GROUP, unix.IFLA_VXLAN_GROUP6:
			if a := ip(v); a.IsValid() && !a.IsUnspecified() {
				o["Remote"] = a.String()
			}
		case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
			if a := ip(v); a.IsValid() && !a.IsUnspecified() {
				o["Local"] = a.String()
			}
		case unix.IFLA_VXLAN_PORT:
			o["Port"] = int64(port(v))
		}
	}
	return fromMap(o)
}

// parseBondSlave reads IFLA_BOND_SLAVE_* of linux/if_link.h.
func parseBondSlave(b []byte) field.Object {
	o := map[string]any{"Type": "bond"}
	for kind, v := range attributes(b) {
		switch kind {
		case unix.IFLA_BOND_SLAVE_STATE:
			o["State"] = netlink.BondSlaveState(u8(v)).String()
		case unix.IFLA_BOND_SLAVE_MII_STATUS:
			o["MiiStatus"] = netlink.BondSlaveMiiStatus(u8(v)).String()
		case unix.IFLA_BOND_SLAVE_LINK_FAILURE_COUNT:
			o["LinkFailureCount"] = int64(u32(v))
		case unix.IFLA_BOND_SLAVE_PERM_HWADDR:
			if mac := hardwareAddr(v); mac != "" {
				o["PermMAC"] = mac
			}
		case unix.IFLA_BOND_SLAVE_QUEUE_ID:
			o["QueueId"] = int64(u16(v))
		case unix.IFLA_BOND_SLAVE_AD_AGGREGATOR_ID:
			o["AggregatorId"] = int64(u16(v))
		case unix.IFLA_BOND_SLAVE_AD_ACTOR_OPER_PORT_STATE:
			o["AdActorOperPortState"] = int64(u8(v))
		case unix.IFLA_BOND_SLAVE_AD_PARTNER_OPER_PORT_STATE:
			o["AdPartnerOperPortState"] = int64(u16(v))
		}
	}
	return fromMap(o)
}

// parseVFs reads IFLA_VFINFO_LIST: for each virtual function structs that begin with its number (linux/if_link.h).
func parseVFs(b []byte) field.List {
	var vfs field.List
	for kind, info := range attributes(b) {
		if kind != unix.IFLA_VF_INFO {
			continue
		}
		o := make(map[string]any)
		number := func(key string, n uint32) {
			if n != 0 {
				o[key] = int64(n)
			}
		}
		for kind, v := range attributes(info) {
			if len(v) < 8 {
				continue
			}
			switch kind {
			case unix.IFLA_VF_MAC:
				number("ID", u32(v))
				if mac := hardwareAddr(v[4:min(10, len(v))]); mac != "" {
					o["MAC"] = mac
				}
			case unix.IFLA_VF_VLAN:
				number("Vlan", u32(v[4:]))
				number("Qos", u32(v[8:]))
			case unix.IFLA_VF_TX_RATE:
				number("TxRate", u32(v[4:]))
			case unix.IFLA_VF_SPOOFCHK:
				if u32(v[4:]) == 1 { // all ones: not known
					o["Spoofchk"] = true
				}
			case unix.IFLA_VF_LINK_STATE:
				number("LinkState", u32(v[4:]))
			}
		}
		vfs = append(vfs, fromMap(o))
	}
	return vfs
}

// fromMap builds an Object of values that are known to be fit for one.
func fromMap(m map[string]any) field.Object {
	o, err := field.FromMap(m)
	if err != nil {
		panic(err)
	}
	return o
}

// stateNames are the operational states of RFC 2863 (IF_OPER_* of linux/if.h).
var stateNames = [...]string{"UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP"}

func stateName(state uint8) string {
	if int(state) < len(stateNames) {
		return stateNames[state]
	}
	return stateNames[0]
}

// flagNames are the names of flags that the public API shows, with the bits of linux/if.h.
var flagNames = [...]struct {
	bit  uint32
	name string
}{
	{unix.IFF_UP, "UP"},
	{unix.IFF_BROADCAST, "BROADCAST"},
	{unix.IFF_LOOPBACK, "LOOPBACK"},
	{unix.IFF_POINTOPOINT, "POINTTOPOINT"},
	{unix.IFF_MULTICAST, "MULTICAST"},
}

func linkFlags(flags uint32) field.List {
	l := make(field.List, 0, 3)
	for _, f := range flagNames {
		if flags&f.bit != 0 {
			l = append(l, f.name)
		}
	}
	return l
}

// encapName names the link layer (ARPHRD_* of linux/if_arp.h).
func encapName(t uint16) string {
	switch t {
	case unix.ARPHRD_ETHER:
		return "ether"
	case unix.ARPHRD_LOOPBACK:
		return "loopback"
	case unix.ARPHRD_NONE:
		return "none"
	case unix.ARPHRD_VOID:
		return "void"
	case unix.ARPHRD_PPP:
		return "ppp"
	case unix.ARPHRD_TUNNEL:
		return "ipip"
	case unix.ARPHRD_TUNNEL6:
		return "tunnel6"
	case unix.ARPHRD_SIT:
		return "sit"
	case unix.ARPHRD_IPGRE:
		return "gre"
	case unix.ARPHRD_IP6GRE:
		return "gre6"
	case unix.ARPHRD_INFINIBAND:
		return "infiniband"
	case unix.ARPHRD_IEEE80211:
		return "ieee802.11"
	case unix.ARPHRD_CAN:
		return "can"
	case unix.ARPHRD_NETLINK:
		return "netlink"
	case unix.ARPHRD_RAWIP:
		return "rawip"
	}
	return "unknown" + strconv.Itoa(int(t))
}

// typeName is the Type of a node: the kind as the public API names it.
func (l *linkInfo) typeName(driver string) string {
	switch {
	case driver == "veth":
		return "veth"
	case l.kind == "":
		return "device"
	case l.kind == "tun":
		return "tuntap"
	}
	return l.kind
}

// pairKinds are those whose link is a peer rather than a parent: each end names the other.
var pairKinds = []string{"veth", "vxcan", "netkit"}

func (l *linkInfo) paired() bool { return slices.Contains(pairKinds, l.kind) }
