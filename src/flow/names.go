package flow

import "strings"

// layerNames are the names that LayersPath has for what is decoded here: those of gopacket, as in the public software.
var layerNames = [...]string{
	layerEthernet: "Ethernet", layerDot1Q: "Dot1Q", layerARP: "ARP", layerIPv4: "IPv4", layerIPv6: "IPv6", layerTCP: "TCP", layerUDP: "UDP",
	layerSCTP: "SCTP", layerICMPv4: "ICMPv4", layerICMPv6: "ICMPv6", layerICMPv6Echo: "ICMPv6Echo", layerVXLAN: "VXLAN",
	layerGeneve: "Geneve", layerGRE: "GRE", layerMPLS: "MPLS", layerFragment: "Fragment", layerHopByHop: "IPv6HopByHop",
	layerRouting: "IPv6Routing", layerDestination: "IPv6Destination", layerFragment6: "IPv6Fragment", layerAH: "IPSecAH",
	layerLLC: "LLC", layerSNAP: "SNAP", layerPPPoE: "PPPoE", layerPPP: "PPP", layerERSPAN: "ERSPANII", layerEtherIP: "EtherIP",
	layerESP: "IPSecESP",
}

// namesMax are the paths and applications that a table tells apart. So many come only from who sends them to fill memory.
const namesMax = 1 << 12

// application is a name with its class of timeout.
type application struct {
	name  string
	class uint32
}

// names are the paths and applications of a table, by number: there are few.
type names struct {
	paths  []string
	byPath map[string]uint16
	byCode map[uint64]uint16
	apps   []application
	byApp  map[string]uint16
	last   []uint16 // application of a path
}

func (t *Table) initNames() {
	s := &t.names
	s.byPath, s.byCode, s.byApp = map[string]uint16{}, map[uint64]uint16{}, map[string]uint16{}
	t.addPath("") // of what is too much
}

// name gives the numbers of the path and of the application of a flow that begins with l.
func (t *Table) name(p *Packet, l *level) (path, app uint16) {
	known := false
	if l.rest == 0 {
		path, known = t.names.byCode[l.path]
	}
	if !known {
		path = t.path(p, l)
	}
	app = t.names.last[path]
	var ports map[uint16]string
	switch {
	case l.shown&shownTCP != 0:
		ports = t.o.TCPPorts
	case l.shown&shownUDP != 0:
		ports = t.o.UDPPorts
	default:
		return path, app
	}
	if len(ports) > 0 {
		name, ok := ports[l.sport]
		if !ok {
			name, ok = ports[l.dport]
		}
		if ok {
			app = t.app(strings.ToUpper(name))
		}
	}
	return path, app
}

func (t *Table) path(p *Packet, l *level) uint16 {
	var b []byte
	for i := layerMax - 1; i >= 0; i-- {
		if n := l.path >> (layerBits * i) & (1<<layerBits - 1); n != 0 {
			b = append(append(b, layerNames[n]...), '/')
		}
	}
	switch {
	case l.rest < 0:
		if name := layerName(l.restKind, l.restID); name != "" {
			b = append(append(b, name...), '/')
		}
	case l.rest > 0:
		b = appendNames(b, p.Data[l.rest:max(l.end, l.rest)], l.restKind, l.restID)
	}
	s := strings.TrimSuffix(string(b), "/")
	n, ok := t.names.byPath[s]
	if !ok {
		if len(t.names.paths) == namesMax {
			return 0
		}
		n = t.addPath(s)
	}
	if l.rest == 0 {
		t.names.byCode[l.path] = n
	}
	return n
}

func (t *Table) addPath(s string) uint16 {
	n := uint16(len(t.names.paths))
	t.names.paths = append(t.names.paths, s)
	t.names.last = append(t.names.last, t.app(s[strings.LastIndexByte(s, '/')+1:]))
	t.names.byPath[s] = n
	return n
}

// app gives the number of an application; 0, which has no name, if there are too many.
func (t *Table) app(name string) uint16 {
	n, ok := t.names.byApp[name]
	if !ok {
		if len(t.names.apps) == namesMax {
			return 0
		}
		n = uint16(len(t.names.apps))
		t.names.apps = append(t.names.apps, application{name, t.classOf[strings.ToUpper(name)]})
		t.names.byApp[name] = n
	}
	return n
}
