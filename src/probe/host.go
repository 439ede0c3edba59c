package probe

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"skydive/src/field"
	"skydive/src/graph"
)

// HostNode describes the root of what an agent sees.
type HostNode struct {
	ID       string         // host_id: Host of the node, and its Name
	Hostname string         // as the operating system has it
	Origin   string         // "agent.<host_id>"
	Metadata map[string]any // agent.metadata; dotted keys make objects
}

// AddHost adds the host node and returns its ID. Its MissingCapabilities lists what this process may not do, if anything.
func AddHost(g *graph.Graph, h HostNode) (string, error) {
	m := field.Make("Type", "host", "Name", h.ID, "Hostname", h.Hostname)
	if missing := MissingCapabilities(); len(missing) > 0 {
		m, _ = m.Set("MissingCapabilities", toList(missing)) // cannot fail: the path has one step
	}
	for key, v := range h.Metadata {
		value, err := field.Normalize(v)
		if err == nil {
			m, err = m.Set(key, value)
		}
		if err != nil {
			return "", fmt.Errorf("metadata %q of host node: %w", key, err)
		}
	}
	env := Env{Host: h.ID, Origin: h.Origin}
	n := env.NewNode(m)
	n.Metadata, _ = m.Set("TID", ownTID(n))
	return n.ID, g.Update("", func(tx *graph.Tx) error { return tx.AddNode(n) })
}

// wanted are the capabilities that probes, captures and injections use (numbers of linux/capability.h).
var wanted = [...]struct {
	name string
	bit  uint
}{
	{"CAP_NET_ADMIN", unix.CAP_NET_ADMIN},
	{"CAP_NET_RAW", unix.CAP_NET_RAW},
	{"CAP_SYS_ADMIN", unix.CAP_SYS_ADMIN},
	{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE},
	{"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH},
}

// MissingCapabilities names the capabilities that this process would need to see everything and does not have.
func MissingCapabilities() []string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	return missing(string(status))
}

func missing(status string) []string {
	_, rest, _ := strings.Cut(status, "CapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	effective, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return nil
	}
	var names []string
	for _, c := range wanted {
		if effective&(1<<c.bit) == 0 {
			names = append(names, c.name)
		}
	}
	return names
}

func toList(texts []string) field.List {
	l := make(field.List, len(texts))
	for i, s := range texts {
		l[i] = s
	}
	return l
}
