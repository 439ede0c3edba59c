package analyzer

import (
	"fmt"
	"net"
	"strings"
	"time"

	"skydive/src/wire"
	"skydive/src/ws"
)

// ReplicaStatus is a connection to another analyzer in /api/status.
type ReplicaStatus struct {
	ws.ConnStatus
	Sent, Received int64          // changes
	Repair         *replicaRepair `json:",omitempty"` // the last
}

// replicaRepair is when what an analyzer has was found to differ, and was made equal.
type replicaRepair struct {
	At       time.Time
	Origin   string
	Elements int
	Count    int64 // of all since the start
}

// replicaCounts is what Run has at hand.
type replicaCounts struct {
	Elements, Origins, Parked, Tombstones, Pending int
}

// ReplicationStatus is the state of all in /api/status.
type ReplicationStatus struct {
	State  string // alone, connected, or partitioned
	Reason string `json:",omitempty"`
	replicaCounts
}

// ReplicasStatus is Peers in /api/status.
type ReplicasStatus struct {
	Incomers, Outgoers map[string]ReplicaStatus
	Replication        ReplicationStatus
}

// Status describes the connections by host id, or by address while that is not known. That to itself is not shown.
func (r *Replicas) Status() any {
	absent, alone := r.Absent(), r.alone()
	r.mu.Lock()
	defer r.mu.Unlock()
	st := ReplicasStatus{Incomers: map[string]ReplicaStatus{}, Outgoers: map[string]ReplicaStatus{}}
	for host, l := range r.links {
		s := ReplicaStatus{ConnStatus: l.conn.Status(), Sent: l.sent.Load(), Received: l.received.Load()}
		if last, ok := r.last[host]; ok {
			s.Repair = &last
		}
		if l.outgoing {
			st.Outgoers[host] = s
		} else {
			st.Incomers[host] = s
		}
	}
	for _, d := range r.dials {
		d.mu.Lock()
		name := d.host
		if name == "" {
			name = d.addr
		}
		if !d.itself && r.links[name] == nil && d.conn == nil {
			host, port, _ := net.SplitHostPort(d.addr)
			var number int
			_, _ = fmt.Sscan(port, &number)
			st.Outgoers[name] = ReplicaStatus{ConnStatus: ws.ConnStatus{
				ServiceType: analyzerType, ClientProtocol: string(wire.JSON), Addr: host, Port: number, State: d.state, Reason: d.reason, Since: d.since,
			}}
		}
		d.mu.Unlock()
	}
	st.Replication = ReplicationStatus{State: "connected", replicaCounts: r.told}
	switch {
	case alone:
		st.Replication.State = "alone"
	case len(absent) > 0:
		st.Replication.State, st.Replication.Reason = "partitioned", "not connected: "+strings.Join(absent, ", ")
	}
	return st
}
