package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Element is a node or edge as the API shows it.
type Element struct {
	ID, Host, Origin, Parent, Child string
	Metadata                        map[string]any
	Revision                        int64
}

// Graph is the answer of the query G.
type Graph struct{ Nodes, Edges []Element }

// Graph asks the service at addr for everything it knows.
func (h *Host) Graph(addr string) (Graph, error) {
	var answer []Graph
	if err := h.Gremlin(addr, "G", &answer); err != nil {
		return Graph{}, err
	}
	return answer[0], nil
}

// Interface is what is compared of an interface.
type Interface struct {
	Namespace string // "" for the host's own, else the inode of the namespace
	Name      string
	Index     int
	MAC       string
	MTU       int
	Up        bool
	Master    string
	Addresses string // sorted, with prefix length
}

func (i Interface) String() string { return fmt.Sprintf("%+v", struct{ plain }{plain(i)}.plain) }

// plain is an Interface without a String method, so that it can be printed field by field.
type plain Interface

// Kernel lists every interface of every network namespace of the host, as the kernel tells it.
func (h *Host) Kernel() ([]Interface, error) {
	// Each namespace once: its inode and a process or path through which it can be entered.
	text, err := h.Script(`
		own=$(stat -Lc %i /proc/1/ns/net)
		echo "$own /proc/1/ns/net"
		for f in /run/netns/* /proc/[0-9]*/ns/net; do
			i=$(stat -Lc %i "$f" 2>/dev/null) || continue
			case " $seen " in *" $i "*) continue;; esac
			seen="$seen $i"; [ "$i" = "$own" ] || echo "$i $f"
		done`)
	if err != nil {
		return nil, err
	}
	var found []Interface
	for n, line := range strings.Split(strings.TrimSpace(text), "\n") {
		inode, path, _ := strings.Cut(line, " ")
		if n == 0 {
			inode = ""
		}
		links, err := h.links(inode, path)
		if err != nil {
			return nil, err
		}
		found = append(found, links...)
	}
	slices.SortFunc(found, func(a, b Interface) int { return strings.Compare(a.String(), b.String()) })
	return found, nil
}

func (h *Host) links(inode, path string) ([]Interface, error) {
	text, err := h.Run("nsenter", "--net="+path, "ip", "-json", "address")
	if err != nil {
		return nil, err
	}
	var links []struct {
		Name    string   `json:"ifname"`
		Index   int      `json:"ifindex"`
		MAC     string   `json:"address"`
		MTU     int      `json:"mtu"`
		Flags   []string `json:"flags"`
		Master  string   `json:"master"`
		Address []struct {
			Local  string `json:"local"`
			Prefix int    `json:"prefixlen"`
		} `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(text), &links); err != nil {
		return nil, fmt.Errorf("ip -json address: %w", err)
	}
	var found []Interface
	for _, l := range links {
		i := Interface{Namespace: inode, Name: l.Name, Index: l.Index, MAC: l.MAC, MTU: l.MTU, Master: l.Master, Up: slices.Contains(l.Flags, "UP")}
		if strings.Trim(i.MAC, "0:") == "" {
			i.MAC = "" // lo: no address at all
		}
		var addresses []string
		for _, a := range l.Address {
			addresses = append(addresses, a.Local+"/"+strconv.Itoa(a.Prefix))
		}
		slices.Sort(addresses)
		i.Addresses = strings.Join(addresses, " ")
		found = append(found, i)
	}
	return found, nil
}

// Seen lists every interface that a graph shows of the host, in the form of Kernel. It fails on a graph that is not whole: an edge
// without an end, an interface without an owner or with two, a name used as master that the owner does not have.
func (g Graph) Seen(host string) ([]Interface, error) {
	nodes := map[string]Element{}
	for _, n := range g.Nodes {
		nodes[n.ID] = n
	}
	owner, master := map[string]string{}, map[string]string{}
	for _, e := range g.Edges {
		parent, ok1 := nodes[e.Parent]
		_, ok2 := nodes[e.Child]
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("edge %s has an end that is not in the graph", e.ID)
		}
		switch e.Metadata["RelationType"] {
		case "ownership":
			if owner[e.Child] != "" {
				return nil, fmt.Errorf("node %v has two owners", nodes[e.Child].Metadata["Name"])
			}
			owner[e.Child] = e.Parent
		case "layer2":
			if e.Metadata["Type"] == nil && parent.Metadata["Type"] == "bridge" {
				master[e.Child] = parent.Metadata["Name"].(string)
			}
		}
	}
	var found []Interface
	for _, n := range g.Nodes {
		index, ok := n.Metadata["IfIndex"].(float64)
		if n.Host != host || !ok {
			continue
		}
		own, ok := nodes[owner[n.ID]]
		if !ok {
			return nil, fmt.Errorf("interface %v has no owner", n.Metadata["Name"])
		}
		i := Interface{Name: n.Metadata["Name"].(string), Index: int(index), Master: master[n.ID]}
		i.MAC, _ = n.Metadata["MAC"].(string)
		if own.Metadata["Type"] == "netns" {
			i.Namespace = fmt.Sprintf("%.0f", own.Metadata["Inode"])
		}
		if mtu, ok := n.Metadata["MTU"].(float64); ok {
			i.MTU = int(mtu)
		}
		flags, _ := n.Metadata["LinkFlags"].([]any)
		i.Up = slices.Contains(flags, any("UP"))
		var addresses []string
		for _, key := range []string{"IPV4", "IPV6"} {
			list, _ := n.Metadata[key].([]any)
			for _, a := range list {
				addresses = append(addresses, a.(string))
			}
		}
		slices.Sort(addresses)
		i.Addresses = strings.Join(addresses, " ")
		found = append(found, i)
	}
	slices.SortFunc(found, func(a, b Interface) int { return strings.Compare(a.String(), b.String()) })
	return found, nil
}

// Agree tells how the graph at addr, asked from the host from, differs from what the kernel of host says; nil when it does not.
func (host *Host) Agree(from *Host, addr string) error {
	kernel, err := host.Kernel()
	if err != nil {
		return err
	}
	g, err := from.Graph(addr)
	if err != nil {
		return err
	}
	seen, err := g.Seen(host.Name)
	if err != nil {
		return err
	}
	var wrong []string
	for _, i := range kernel {
		if !slices.Contains(seen, i) {
			wrong = append(wrong, "kernel has "+i.String())
		}
	}
	for _, i := range seen {
		if !slices.Contains(kernel, i) {
			wrong = append(wrong, "graph has  "+i.String())
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s: graph and kernel differ in %d places:\n%s", host.Name, len(wrong), strings.Join(wrong, "\n"))
	}
	return nil
}
