package inventory

import (
	"fmt"
	"net/netip"
	"regexp"
	"sort"
	"strings"
)

// hosts collects who gets an agent and who an analyzer, and what is odd about them.
type hosts struct {
	address           map[string]string // by name
	name              map[netip.Addr]string
	agents, analyzers map[string]bool
	warn              func(string, ...any)
}

func newHosts(warn func(string, ...any)) *hosts {
	return &hosts{address: map[string]string{}, name: map[netip.Addr]string{}, agents: map[string]bool{}, analyzers: map[string]bool{}, warn: warn}
}

func (h *hosts) empty() bool { return len(h.agents) == 0 }

// wanted tells what a role, or a server by its name, is to run: every custom role that is some kind of controller or compute node counts.
func wanted(name string) (agent, analyzer bool) {
	name = strings.ToLower(name)
	analyzer = strings.Contains(name, "controller")
	return analyzer || strings.Contains(name, "compute"), analyzer
}

// short is a host's name of one word, and lower case.
func short(name string) string {
	name = strings.ToLower(strings.TrimSpace(name))
	if before, _, found := strings.Cut(name, ".ctlplane."); found {
		return before
	}
	name, _, _ = strings.Cut(name, ".")
	return name
}

// hostName is what may be a host of an Ansible inventory: nothing that it takes for a pattern or a range.
var hostName = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?$`).MatchString

// add puts a host where role, or server, says.
func (h *hosts) add(role, name, address string) {
	agent, analyzer := wanted(role)
	name = short(name)
	ip, err := netip.ParseAddr(strings.TrimSpace(address))
	switch {
	case !agent:
		return
	case !hostName(name):
		h.warn("%s: %.64q is no host name; left out", role, name)
		return
	case err != nil || ip.Zone() != "":
		h.warn("%s: %.64q of host %s is no address; left out", role, address, name)
		return
	}
	if known, ok := h.address[name]; ok {
		if known != ip.String() {
			h.warn("%s: host %s has the addresses %s and %s; the first is taken", role, name, known, ip)
		}
	} else if other, ok := h.name[ip]; ok {
		h.warn("%s: hosts %s and %s have one address, %s; the first is taken", role, other, name, ip)
		name = other
	} else {
		h.address[name], h.name[ip] = ip.String(), name
	}
	h.agents[name] = true
	if analyzer {
		h.analyzers[name] = true
	}
}

// roles adds what the stack's maps tell: role → network → list, the same order in both.
func (h *hosts) roles(names, addresses any) {
	byRole, _ := addresses.(map[string]any)
	roles, _ := names.(map[string]any)
	for _, role := range sorted(roles) {
		hosts, ips := list(roles[role]), list(byRole[role])
		if agent, _ := wanted(role); !agent {
			if len(hosts) > 0 {
				h.warn("role %s is neither controller nor compute by its name: nothing for its hosts (%d)", role, len(hosts))
			}
			continue
		}
		if len(hosts) != len(ips) {
			h.warn("role %s has %d host names and %d addresses on the network ctlplane; what has no counterpart is left out", role, len(hosts), len(ips))
		}
		for i := range min(len(hosts), len(ips)) {
			h.add("role "+role, text(hosts[i]), text(ips[i]))
		}
	}
}

// list is the part of the network ctlplane, which undercloud and overcloud share.
func list(role any) []any {
	networks, _ := role.(map[string]any)
	found, _ := networks["ctlplane"].([]any)
	return found
}

func text(value any) string {
	if s, ok := value.(string); ok {
		return s
	}
	return ""
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// server is what Nova tells about a host of the overcloud.
type server struct {
	Name      string                     `json:"name"`
	Addresses map[string][]serverAddress `json:"addresses"`
}

type serverAddress struct {
	Address string `json:"addr"`
	Version int    `json:"version"`
}

// servers adds Nova's servers, whose names tell what they are.
func (h *hosts) servers(found []server) {
	for _, server := range found {
		if agent, _ := wanted(server.Name); !agent {
			h.warn("server %.64q is neither controller nor compute by its name; left out", server.Name)
			continue
		}
		address := ""
		for _, candidate := range server.Addresses["ctlplane"] {
			if address == "" || candidate.Version == 4 && strings.Contains(address, ":") {
				address = candidate.Address
			}
		}
		if address == "" {
			h.warn("server %.64q has no address on the network ctlplane; left out", server.Name)
			continue
		}
		h.add(fmt.Sprintf("server %.64s", server.Name), server.Name, address)
	}
}
