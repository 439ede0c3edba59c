package bpf

import (
	"strconv"
	"strings"
)

// protocol tells whether a word names a protocol that can be a qualifier, and its only name.
func protocol(s string) string {
	switch s {
	case "link":
		return "ether"
	case "ether", "ip", "ip6", "arp", "rarp", "tcp", "udp", "sctp", "icmp", "icmp6", "igmp", "igrp", "pim", "vrrp", "carp", "ah", "esp",
		"decnet", "sca", "lat", "mopdl", "moprc", "iso", "stp", "netbeui":
		return s
	}
	return ""
}

// refused says why a word of pcap-filter(7) cannot be used; it is empty for other words.
func refused(s string) string {
	switch s {
	case "gateway":
		return "it needs the names of hosts"
	case "protochain":
		return "programs have no loops"
	case "inbound", "outbound", "ifindex", "ifname", "on", "rset", "ruleset", "rnr", "rulenum", "srnr", "subrulenum", "reason", "action":
		return "a frame does not tell"
	case "fddi", "tr", "wlan", "ppp", "slip", "radio", "type", "subtype", "direction", "dir", "addr1", "addr2", "addr3", "addr4", "ra", "ta",
		"llc", "lane", "metac", "bcc", "oam", "oamf4", "oamf4ec", "oamf4sc", "connectmsg", "metaconnect", "vpi", "vci", "fisu", "lssu", "lsu",
		"msu", "hfisu", "hlssu", "hmsu", "sio", "opc", "dpc", "sls", "hsio", "hopc", "hdpc", "hsls":
		return "frames are Ethernet or IP"
	case "atalk", "aarp", "ipx", "esis", "es-is", "isis", "is-is", "clnp", "l1", "l2", "iih", "lsp", "snp", "csnp", "psnp":
		return "the protocol is obsolete or not of IP"
	case "geneve", "vxlan":
		return "headers in a tunnel have no fixed place"
	case "byte":
		return `"ether[offset]" does the same`
	}
	return ""
}

// etherType is the number of a protocol in a frame; up to 1500 it is one of IEEE 802.2.
func etherType(s string) (uint32, bool) {
	switch s {
	case "ip":
		return etherIP, true
	case "ip6":
		return etherIP6, true
	case "arp":
		return etherARP, true
	case "rarp":
		return etherRARP, true
	case "decnet":
		return 0x6003, true
	case "sca":
		return 0x6007, true
	case "lat":
		return 0x6004, true
	case "mopdl":
		return 0x6001, true
	case "moprc":
		return 0x6002, true
	case "loopback":
		return 0x9000, true
	case "iso":
		return sapISO, true
	case "stp":
		return 0x42, true
	case "netbeui":
		return sapNetBEUI, true
	}
	return 0, false
}

// ipProtocols are names of /etc/protocols.
const ipProtocols = "ip/0 hopopt/0 icmp/1 igmp/2 ggp/3 ipencap/4 st/5 tcp/6 egp/8 igp/9 pup/12 udp/17 hmp/20 xns-idp/22 rdp/27 iso-tp4/29 dccp/33 " +
	"xtp/36 ddp/37 idpr-cmtp/38 ipv6/41 ipv6-route/43 ipv6-frag/44 idrp/45 rsvp/46 gre/47 esp/50 ah/51 skip/57 ipv6-icmp/58 icmp6/58 " +
	"ipv6-nonxt/59 ipv6-opts/60 rspf/73 vmtp/81 eigrp/88 ospf/89 ax.25/93 ipip/94 etherip/97 encap/98 pim/103 ipcomp/108 vrrp/112 " +
	"carp/112 l2tp/115 isis/124 sctp/132 fc/133 mobility-header/135 udplite/136 mpls-in-ip/137 manet/138 hip/139 shim6/140 wesp/141 rohc/142"

func ipProtocol(s string) (uint32, bool) {
	n, _, ok := lookup(ipProtocols, s)
	return n, ok
}

// services are names of /etc/services, with t for TCP and u for UDP.
const services = "echo/7/tu discard/9/tu daytime/13/tu chargen/19/tu ftp-data/20/t ftp/21/t ssh/22/t telnet/23/t smtp/25/t mail/25/t time/37/tu " +
	"whois/43/t tacacs/49/tu domain/53/tu bootps/67/u bootpc/68/u tftp/69/u gopher/70/t finger/79/t http/80/t www/80/t kerberos/88/tu " +
	"pop3/110/t sunrpc/111/tu portmapper/111/tu auth/113/t nntp/119/t ntp/123/u epmap/135/t netbios-ns/137/u netbios-dgm/138/u " +
	"netbios-ssn/139/t imap2/143/t imap/143/t snmp/161/tu snmp-trap/162/tu snmptrap/162/tu xdmcp/177/u bgp/179/t ptp-event/319/u " +
	"ptp-general/320/u ldap/389/tu svrloc/427/tu https/443/tu microsoft-ds/445/t kpasswd/464/tu submissions/465/t isakmp/500/u exec/512/t " +
	"login/513/t who/513/u shell/514/t syslog/514/u printer/515/t talk/517/u route/520/u router/520/u rip/520/u dhcpv6-client/546/u " +
	"dhcpv6-server/547/u rtsp/554/tu submission/587/t asf-rmcp/623/u ipp/631/t ldp/646/tu ldaps/636/tu kerberos-adm/749/t domain-s/853/tu " +
	"rsync/873/t ftps-data/989/t ftps/990/t telnets/992/t imaps/993/t pop3s/995/t socks/1080/t openvpn/1194/tu ms-sql-s/1433/t " +
	"ms-sql-m/1434/u l2f/1701/u l2tp/1701/u radius/1812/tu radius-acct/1813/tu nfs/2049/tu zookeeper/2181/t etcd-client/2379/t " +
	"etcd-server/2380/t iscsi-target/3260/t mysql/3306/t ms-wbt-server/3389/t nut/3493/tu svn/3690/t epmd/4369/t ipsec-nat-t/4500/u " +
	"vxlan/4789/u sip/5060/tu sip-tls/5061/tu xmpp-client/5222/t xmpp-server/5269/t mdns/5353/u postgresql/5432/t postgres/5432/t amqps/5671/t " +
	"amqp/5672/t x11/6000/t geneve/6081/u sflow/6343/u redis/6379/t mpls-udp/6635/u openflow/6653/t syslog-tls/6514/t ovsdb/6640/t " +
	"http-alt/8080/t webcache/8080/t https-alt/8443/t git/9418/t zabbix-agent/10050/t zabbix-trapper/10051/t"

// service returns a port and which protocols have it.
func service(s string) (port uint32, tcp, udp, ok bool) {
	port, of, ok := lookup(services, s)
	return port, strings.Contains(of, "t"), strings.Contains(of, "u"), ok
}

func lookup(table, name string) (n uint32, rest string, ok bool) {
	for entry := range strings.FieldsSeq(table) {
		if key, value, _ := strings.Cut(entry, "/"); key == name {
			number, rest, _ := strings.Cut(value, "/")
			n, err := strconv.ParseUint(number, 10, 32)
			return uint32(n), rest, err == nil
		}
	}
	return 0, "", false
}

// constantNames stand for offsets in headers and for values of them.
const constantNames = "icmptype/0 icmpcode/1 icmp-echoreply/0 icmp-unreach/3 icmp-sourcequench/4 icmp-redirect/5 icmp-echo/8 " +
	"icmp-routeradvert/9 icmp-routersolicit/10 icmp-timxceed/11 icmp-paramprob/12 icmp-tstamp/13 icmp-tstampreply/14 icmp-ireq/15 " +
	"icmp-ireqreply/16 icmp-maskreq/17 icmp-maskreply/18 " +
	"icmp6type/0 icmp6code/1 icmp6-destinationunreach/1 icmp6-destinationrunreach/1 icmp6-packettoobig/2 icmp6-timeexceeded/3 " +
	"icmp6-parameterproblem/4 icmp6-echo/128 icmp6-echoreply/129 icmp6-multicastlistenerquery/130 icmp6-multicastlistenerreportv1/131 " +
	"icmp6-multicastlistenerdone/132 icmp6-routersolicit/133 icmp6-routeradvert/134 icmp6-neighborsolicit/135 icmp6-neighboradvert/136 " +
	"icmp6-redirect/137 icmp6-routerrenum/138 icmp6-nodeinformationquery/139 icmp6-nodeinformationresponse/140 " +
	"icmp6-ineighbordiscoverysolicit/141 icmp6-ineighbordiscoveryadvert/142 icmp6-multicastlistenerreportv2/143 " +
	"icmp6-homeagentdiscoveryrequest/144 icmp6-homeagentdiscoveryreply/145 icmp6-mobileprefixsolicit/146 icmp6-mobileprefixadvert/147 " +
	"icmp6-certpathsolicit/148 icmp6-certpathadvert/149 icmp6-multicastrouteradvert/151 icmp6-multicastroutersolicit/152 " +
	"icmp6-multicastroutertermination/153 " +
	"tcpflags/13 tcp-fin/1 tcp-syn/2 tcp-rst/4 tcp-push/8 tcp-ack/16 tcp-urg/32 tcp-ece/64 tcp-cwr/128"

func constants(s string) (uint32, bool) {
	if len(s) < 7 || s[0] != 'i' && s[0] != 't' {
		return 0, false
	}
	n, _, ok := lookup(constantNames, s)
	return n, ok
}
