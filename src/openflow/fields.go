package openflow

import "strconv"

// Classes of match fields, as the upper part of a fieldKey. Those of experimenters carry their number too.
const (
	nxmOF      fieldKey = 0x0000 << 16
	nxmNX      fieldKey = 0x0001 << 16
	oxmOF      fieldKey = 0x8000 << 16
	packetRegs fieldKey = 0x8001 << 16
	experiment fieldKey = 0xffff << 16
	onf        fieldKey = 0x4f4e4600<<32 | experiment
	nxoxm      fieldKey = nicira<<32 | experiment
	nsh        fieldKey = 0x005ad650<<32 | experiment
	none       fieldKey = 1<<64 - 1
)

// fieldKey identifies a field: experimenter, class and number.
type fieldKey uint64

// format says how the value of a field is written.
type format uint8

const (
	hexadecimal format = iota
	decimal
	port
	ipv4
	ipv6
	ethernet
	fragment
	tunnelFlags
	ctState
	tcpFlags
	packetType
)

// fieldInfo describes one field. It goes by several numbers: those of Nicira's extension and those of the standard.
type fieldInfo struct {
	name     string // in actions that set it
	match    string // in matches
	long     string // in actions that move bits
	size     int    // bytes; 0: any number of them
	format   format
	nxm, oxm fieldKey
}

// fields are in the order in which matches show them; registers and tunnel options come before all of them.
var fields = [...]fieldInfo{
	{"pkt_mark", "pkt_mark", "NXM_NX_PKT_MARK", 4, hexadecimal, nxmNX + 33, none},
	{"recirc_id", "recirc_id", "NXM_NX_RECIRC_ID", 4, hexadecimal, nxmNX + 36, none},
	{"dp_hash", "dp_hash", "NXM_NX_DP_HASH", 4, hexadecimal, nxmNX + 35, none},
	{"conj_id", "conj_id", "NXM_NX_CONJ_ID", 4, decimal, nxmNX + 37, none},
	{"actset_output", "actset_output", "ONFOXM_ET_ACTSET_OUTPUT", 4, port, oxmOF + 43, onf + 43},
	{"ct_state", "ct_state", "NXM_NX_CT_STATE", 4, ctState, nxmNX + 105, none},
	{"ct_zone", "ct_zone", "NXM_NX_CT_ZONE", 2, decimal, nxmNX + 106, none},
	{"ct_mark", "ct_mark", "NXM_NX_CT_MARK", 4, hexadecimal, nxmNX + 107, none},
	{"ct_label", "ct_label", "NXM_NX_CT_LABEL", 16, hexadecimal, nxmNX + 108, none},
	{"ct_nw_src", "ct_nw_src", "NXM_NX_CT_NW_SRC", 4, ipv4, nxmNX + 120, none},
	{"ct_nw_dst", "ct_nw_dst", "NXM_NX_CT_NW_DST", 4, ipv4, nxmNX + 121, none},
	{"ct_ipv6_src", "ct_ipv6_src", "NXM_NX_CT_IPV6_SRC", 16, ipv6, nxmNX + 122, none},
	{"ct_ipv6_dst", "ct_ipv6_dst", "NXM_NX_CT_IPV6_DST", 16, ipv6, nxmNX + 123, none},
	{"ct_nw_proto", "ct_nw_proto", "NXM_NX_CT_NW_PROTO", 1, decimal, nxmNX + 119, none},
	{"ct_tp_src", "ct_tp_src", "NXM_NX_CT_TP_SRC", 2, decimal, nxmNX + 124, none},
	{"ct_tp_dst", "ct_tp_dst", "NXM_NX_CT_TP_DST", 2, decimal, nxmNX + 125, none},
	{"packet_type", "packet_type", "OXM_OF_PACKET_TYPE", 4, packetType, none, oxmOF + 44},
	{"tun_id", "tun_id", "NXM_NX_TUN_ID", 8, hexadecimal, nxmNX + 16, oxmOF + 38},
	{"tun_src", "tun_src", "NXM_NX_TUN_IPV4_SRC", 4, ipv4, nxmNX + 31, none},
	{"tun_dst", "tun_dst", "NXM_NX_TUN_IPV4_DST", 4, ipv4, nxmNX + 32, none},
	{"tun_ipv6_src", "tun_ipv6_src", "NXM_NX_TUN_IPV6_SRC", 16, ipv6, nxmNX + 109, none},
	{"tun_ipv6_dst", "tun_ipv6_dst", "NXM_NX_TUN_IPV6_DST", 16, ipv6, nxmNX + 110, none},
	{"tun_gbp_id", "tun_gbp_id", "NXM_NX_TUN_GBP_ID", 2, decimal, nxmNX + 38, none},
	{"tun_gbp_flags", "tun_gbp_flags", "NXM_NX_TUN_GBP_FLAGS", 1, hexadecimal, nxmNX + 39, none},
	{"tun_erspan_ver", "tun_erspan_ver", "NXOXM_ET_ERSPAN_VER", 1, decimal, nxoxm + 12, none},
	{"tun_erspan_idx", "tun_erspan_idx", "NXOXM_ET_ERSPAN_IDX", 4, hexadecimal, nxoxm + 11, none},
	{"tun_erspan_dir", "tun_erspan_dir", "NXOXM_ET_ERSPAN_DIR", 1, decimal, nxoxm + 13, none},
	{"tun_erspan_hwid", "tun_erspan_hwid", "NXOXM_ET_ERSPAN_HWID", 1, hexadecimal, nxoxm + 14, none},
	{"tun_gtpu_flags", "gtpu_flags", "NXOXM_ET_GTPU_FLAGS", 1, hexadecimal, nxoxm + 15, none},
	{"tun_gtpu_msgtype", "gtpu_msgtype", "NXOXM_ET_GTPU_MSGTYPE", 1, decimal, nxoxm + 16, none},
	{"tun_flags", "tun_flags", "NXM_NX_TUN_FLAGS", 2, tunnelFlags, nxmNX + 104, none},
	{"metadata", "metadata", "OXM_OF_METADATA", 8, hexadecimal, none, oxmOF + 2},
	{"in_port", "in_port", "NXM_OF_IN_PORT", 2, port, nxmOF + 0, none},
	{"in_port_oxm", "in_port", "OXM_OF_IN_PORT", 4, port, none, oxmOF + 0},
	{"vlan_tci", "vlan_tci", "NXM_OF_VLAN_TCI", 2, hexadecimal, nxmOF + 4, none},
	{"vlan_vid", "vlan_vid", "OXM_OF_VLAN_VID", 2, decimal, none, oxmOF + 6},
	{"vlan_pcp", "vlan_pcp", "OXM_OF_VLAN_PCP", 1, decimal, none, oxmOF + 7},
	{"eth_src", "dl_src", "NXM_OF_ETH_SRC", 6, ethernet, nxmOF + 2, oxmOF + 4},
	{"eth_dst", "dl_dst", "NXM_OF_ETH_DST", 6, ethernet, nxmOF + 1, oxmOF + 3},
	{"eth_type", "dl_type", "NXM_OF_ETH_TYPE", 2, hexadecimal, nxmOF + 3, oxmOF + 5},
	{"ipv6_src", "ipv6_src", "NXM_NX_IPV6_SRC", 16, ipv6, nxmNX + 19, oxmOF + 26},
	{"ipv6_dst", "ipv6_dst", "NXM_NX_IPV6_DST", 16, ipv6, nxmNX + 20, oxmOF + 27},
	{"ipv6_label", "ipv6_label", "NXM_NX_IPV6_LABEL", 4, hexadecimal, nxmNX + 27, oxmOF + 28},
	{"arp_spa", "arp_spa", "NXM_OF_ARP_SPA", 4, ipv4, nxmOF + 16, oxmOF + 22},
	{"arp_tpa", "arp_tpa", "NXM_OF_ARP_TPA", 4, ipv4, nxmOF + 17, oxmOF + 23},
	{"ip_src", "nw_src", "NXM_OF_IP_SRC", 4, ipv4, nxmOF + 7, oxmOF + 11},
	{"ip_dst", "nw_dst", "NXM_OF_IP_DST", 4, ipv4, nxmOF + 8, oxmOF + 12},
	{"arp_op", "arp_op", "NXM_OF_ARP_OP", 2, decimal, nxmOF + 15, oxmOF + 21},
	{"nw_proto", "nw_proto", "NXM_OF_IP_PROTO", 1, decimal, nxmOF + 6, oxmOF + 10},
	{"arp_sha", "arp_sha", "NXM_NX_ARP_SHA", 6, ethernet, nxmNX + 17, oxmOF + 24},
	{"arp_tha", "arp_tha", "NXM_NX_ARP_THA", 6, ethernet, nxmNX + 18, oxmOF + 25},
	{"nw_tos", "nw_tos", "NXM_OF_IP_TOS", 1, decimal, nxmOF + 5, none},
	{"ip_dscp", "nw_tos", "OXM_OF_IP_DSCP", 1, decimal, none, oxmOF + 8},
	{"nw_ecn", "nw_ecn", "NXM_NX_IP_ECN", 1, decimal, nxmNX + 28, oxmOF + 9},
	{"nw_ttl", "nw_ttl", "NXM_NX_IP_TTL", 1, decimal, nxmNX + 29, none},
	{"mpls_label", "mpls_label", "OXM_OF_MPLS_LABEL", 4, decimal, none, oxmOF + 34},
	{"mpls_tc", "mpls_tc", "OXM_OF_MPLS_TC", 1, decimal, none, oxmOF + 35},
	{"mpls_bos", "mpls_bos", "OXM_OF_MPLS_BOS", 1, decimal, none, oxmOF + 36},
	{"mpls_ttl", "mpls_ttl", "NXM_NX_MPLS_TTL", 1, decimal, nxmNX + 30, none},
	{"ip_frag", "nw_frag", "NXM_NX_IP_FRAG", 1, fragment, nxmNX + 26, none},
	{"nsh_flags", "nsh_flags", "NXOXM_NSH_FLAGS", 1, decimal, nsh + 1, none},
	{"nsh_ttl", "nsh_ttl", "NXOXM_NSH_TTL", 1, decimal, nsh + 10, none},
	{"nsh_mdtype", "nsh_mdtype", "NXOXM_NSH_MDTYPE", 1, decimal, nsh + 2, none},
	{"nsh_np", "nsh_np", "NXOXM_NSH_NP", 1, decimal, nsh + 3, none},
	{"nsh_spi", "nsh_spi", "NXOXM_NSH_SPI", 4, hexadecimal, nsh + 4, none},
	{"nsh_si", "nsh_si", "NXOXM_NSH_SI", 1, decimal, nsh + 5, none},
	{"nsh_c1", "nsh_c1", "NXOXM_NSH_C1", 4, hexadecimal, nsh + 6, none},
	{"nsh_c2", "nsh_c2", "NXOXM_NSH_C2", 4, hexadecimal, nsh + 7, none},
	{"nsh_c3", "nsh_c3", "NXOXM_NSH_C3", 4, hexadecimal, nsh + 8, none},
	{"nsh_c4", "nsh_c4", "NXOXM_NSH_C4", 4, hexadecimal, nsh + 9, none},
	{"tcp_src", "tp_src", "NXM_OF_TCP_SRC", 2, decimal, nxmOF + 9, oxmOF + 13},
	{"udp_src", "tp_src", "NXM_OF_UDP_SRC", 2, decimal, nxmOF + 11, oxmOF + 15},
	{"sctp_src", "tp_src", "OXM_OF_SCTP_SRC", 2, decimal, none, oxmOF + 17},
	{"tcp_dst", "tp_dst", "NXM_OF_TCP_DST", 2, decimal, nxmOF + 10, oxmOF + 14},
	{"udp_dst", "tp_dst", "NXM_OF_UDP_DST", 2, decimal, nxmOF + 12, oxmOF + 16},
	{"sctp_dst", "tp_dst", "OXM_OF_SCTP_DST", 2, decimal, none, oxmOF + 18},
	{"icmp_type", "icmp_type", "NXM_OF_ICMP_TYPE", 1, decimal, nxmOF + 13, oxmOF + 19},
	{"icmpv6_type", "icmp_type", "NXM_NX_ICMPV6_TYPE", 1, decimal, nxmNX + 21, oxmOF + 29},
	{"icmp_code", "icmp_code", "NXM_OF_ICMP_CODE", 1, decimal, nxmOF + 14, oxmOF + 20},
	{"icmpv6_code", "icmp_code", "NXM_NX_ICMPV6_CODE", 1, decimal, nxmNX + 22, oxmOF + 30},
	{"nd_target", "nd_target", "NXM_NX_ND_TARGET", 16, ipv6, nxmNX + 23, oxmOF + 31},
	{"nd_sll", "nd_sll", "NXM_NX_ND_SLL", 6, ethernet, nxmNX + 24, oxmOF + 32},
	{"nd_tll", "nd_tll", "NXM_NX_ND_TLL", 6, ethernet, nxmNX + 25, oxmOF + 33},
	{"tcp_flags", "tcp_flags", "NXM_NX_TCP_FLAGS", 2, tcpFlags, nxmNX + 34, oxmOF + 42},
	{"tcp_flags", "tcp_flags", "NXM_NX_TCP_FLAGS", 2, tcpFlags, none, onf + 42},
}

// fieldIndex finds a field by either of its numbers; nothing writes to it.
var fieldIndex = func() map[fieldKey]int {
	m := make(map[fieldKey]int, 2*len(fields))
	for i, f := range fields {
		if f.nxm != none {
			m[f.nxm] = i
		}
		if f.oxm != none {
			m[f.oxm] = i
		}
	}
	return m
}()

// rankUnknown is after all others.
const rankUnknown = 1 << 20

// field describes the field of a key, known or not. Fields are shown in the order of rank.
func (k fieldKey) field() (f fieldInfo, rank int) {
	if i, ok := fieldIndex[k]; ok {
		return fields[i], 100 * (i + 1)
	}
	number := int(k & 0xffff)
	numbered := func(name, long string, i, size int) (fieldInfo, int) {
		name += strconv.Itoa(i)
		return fieldInfo{name: name, match: name, long: long + strconv.Itoa(i), size: size}, i
	}
	switch {
	case k&^0xffff == nxmNX && number < 16:
		return numbered("reg", "NXM_NX_REG", number, 4)
	case k&^0xffff == packetRegs && number < 8:
		return numbered("xreg", "OXM_OF_PKT_REG", number, 8)
	case k&^0xffff == nxmNX && number >= 111 && number < 119:
		return numbered("xxreg", "NXM_NX_XXREG", number-111, 16)
	case k&^0xffff == nxmNX && number >= 40 && number < 104:
		return numbered("tun_metadata", "NXM_NX_TUN_METADATA", number-40, 0)
	}
	name := "field_" + strconv.FormatUint(uint64(k>>16&0xffff), 16) + "_" + strconv.Itoa(number)
	if k>>32 != 0 {
		name = "field_" + strconv.FormatUint(uint64(k>>32), 16) + "_" + strconv.Itoa(number)
	}
	return fieldInfo{name: name, match: name, long: name}, rankUnknown
}
