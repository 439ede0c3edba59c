package mirror

import (
	"context"
	"fmt"
	"slices"
	"time"

	"skydive/src/ovs"
)

// External ids of our rows. Those without a host are of an older agent, which there is no more.
const (
	markKey = "skydive-probe-id"
	hostKey = "skydive-host"
)

// references are the columns of bridges that our rows are in, and the tables of these.
var references = [...]struct{ column, table string }{
	{"mirrors", "Mirror"}, {"ports", "Port"}, {"sflow", "sFlow"}, {"netflow", "NetFlow"}, {"ipfix", "IPFIX"},
}

const sweepEvery = 10 * time.Second // when it failed

// ids are those of a row that has the mark.
func (s *Switch) ids(mark string) map[string]string {
	return map[string]string{markKey: mark, hostKey: s.o.Host}
}

// marked returns the mark of a row, if it was put there by a capture of this host.
func (s *Switch) marked(row ovs.Row) string {
	if host := row.MapText("external_ids", hostKey); host != "" && host != s.o.Host {
		return ""
	}
	return row.MapText("external_ids", markKey)
}

// sweeping takes out our rows that no capture wants, whenever there are some.
func (s *Switch) sweeping(ctx context.Context) {
	for {
		var ops []ovs.Operation
		if s.wait(ctx, func() (bool, error) {
			if s.connected {
				ops = s.strays()
			}
			return len(ops) > 0, nil
		}) != nil {
			return
		}
		_, err := s.client.Transact(ctx, append(ops, ovs.Comment("skydive: captures ended"))...)
		if err == nil || ctx.Err() != nil {
			continue
		}
		s.o.Log.Warn("Rows of captures that ended cannot be taken out of the database of Open vSwitch", "error", err)
		timer := time.NewTimer(sweepEvery)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// swept waits a little until that is done. Without a connection it is done when there is one.
func (s *Switch) swept(ctx context.Context) {
	_ = s.within(ctx, func() (bool, error) { return !s.connected || len(s.strays()) == 0, nil }, func() error {
		s.o.Log.Warn("Rows of captures that ended are still in the database of Open vSwitch")
		return nil
	})
}

// strays returns what takes out our rows that no capture wants: the database deletes what no bridge refers to. Called with mu.
func (s *Switch) strays() (ops []ovs.Operation) {
	for id, b := range s.tables["Bridge"] {
		var mutations []ovs.Mutation
		for _, ref := range references {
			gone := slices.DeleteFunc(b.UUIDs(ref.column), func(row ovs.UUID) bool {
				mark := s.marked(s.tables[ref.table][row])
				_, wanted := s.live[mark]
				return mark == "" || wanted
			})
			if len(gone) > 0 {
				mutations = append(mutations, ovs.Mutate(ref.column, "delete", gone))
			}
		}
		if len(mutations) > 0 {
			ops = append(ops, ovs.MutateRows("Bridge", mutations, ovs.Is(id)))
		}
	}
	return ops
}

// bridgeOf returns the bridge that a port is of. Called with mu.
func (s *Switch) bridgeOf(port ovs.UUID) (ovs.UUID, bool) {
	for id, b := range s.tables["Bridge"] {
		if slices.Contains(b.UUIDs("ports"), port) {
			return id, true
		}
	}
	return "", false
}

// there fails when a row is not there any more. Called with mu.
func (s *Switch) there(table string, id ovs.UUID) error {
	if s.tables[table][id] == nil {
		return fmt.Errorf("the %s row of the capture was taken out of the database of Open vSwitch", table)
	}
	return nil
}
