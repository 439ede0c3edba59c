package etcd

import (
	"context"
	"expvar"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Each tick wakes the processor, and that is nearly all that an idle server costs. A single member has nobody to send heartbeats to,
// so it ticks slowly; hasten makes it leader at once instead of waiting for an election. Members of a cluster keep etcd's pace.
const (
	soloTick     = 1000 // ms
	soloElection = 5 * soloTick
)

// hasten makes a lone member stand for election now: it gets the message with which a leader hands over its office (raft, section
// 3.10), which is obeyed without waiting for the election timeout. Too early – the member has not read its own membership yet – it is
// ignored.
func hasten(ctx context.Context, server *embed.Etcd) {
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	id := uint64(server.Server.MemberID())
	for server.Server.Leader() == 0 && len(server.Server.Cluster().Members()) <= 1 {
		if replayed(id) {
			_ = server.Server.Process(ctx, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: &id, To: &id}) // the next one may get through
		}
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

// replayed tells whether a member has applied all that its log holds. Whoever stands for election before looks through the rest of the
// log, which etcd may be shortening at that time, and that is the end of it. Only this variable knows; with several members in one
// process it is about the latest, and the others wait for an ordinary election.
func replayed(id uint64) bool {
	status, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return false
	}
	now, ok := status().(raft.Status)
	return ok && now.ID == id && now.HardState != nil && now.Applied > 0 && now.Applied >= now.GetCommit()
}
