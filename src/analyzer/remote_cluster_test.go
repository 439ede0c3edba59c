package analyzer

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"skydive/src/flow"
	"skydive/src/query"
)

// TestArchivesOfCluster asks over the links of a real cluster, of which one analyzer goes and comes back.
func TestArchivesOfCluster(t *testing.T) {
	addrs := freeAddrs(t, 3)
	var all []*replica
	var archives []*ArchivedFlows
	start := func(i int) (*replica, query.Storage) {
		local := small(t, fmt.Sprintf("%016x", i+1))
		return newReplica(t, fmt.Sprintf("a%d", i+1), addrs[i], replicaSetup{
			addrs: func(string) []string { return addrs }, answer: NewArchiveAnswers(local, slog.New(slog.DiscardHandler), nil).Answer,
		}), local
	}
	for i := range addrs {
		r, local := start(i)
		all = append(all, r)
		archives = append(archives, NewArchivedFlows(ArchivedFlowsOptions{
			HostID: r.id, Local: local, Peers: r.replicas, Logger: slog.New(slog.DiscardHandler),
		}))
	}
	linked(t, all...)
	from, to := time.Now().Add(-time.Minute), time.Now().Add(time.Minute)
	check := func(asked *ArchivedFlows, want, lacks string) error {
		found, err := asked.Flows(t.Context(), from, to, &flow.Search{Sort: true, To: 10})
		var missing query.Missing
		if err != nil && !errors.As(err, &missing) {
			return err
		}
		sum, err := asked.Total(t.Context(), from, to, from, nil, flow.Aggregate{})
		if err != nil && !errors.As(err, &missing) {
			return err
		}
		if got := uuidsOf(found); got != want || strings.Join(missing, " ") != lacks || sum.Count != int64(len(strings.Fields(want))) {
			return fmt.Errorf("%q, %d, without %v", got, sum.Count, missing)
		}
		return nil
	}
	for _, a := range archives {
		eventually(t, "all answer", func() error { return check(a, "1 2 3", "") })
	}
	all[1].stop()
	eventually(t, "it is missing", func() error { return check(archives[0], "1 3", "a2") })
	all[1], _ = start(1)
	linked(t, all...)
	eventually(t, "it is back", func() error { return check(archives[2], "1 2 3", "") })

	if hosts := all[0].replicas.Hosts(); !slices.Equal(hosts, []string{"a2", "a3"}) {
		t.Error(hosts)
	}
}
