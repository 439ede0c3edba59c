package etcd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// Members are found at the URLs that the cluster has agreed on, and it agrees on new ones only while most members reach each other. When TLS
// comes to all of them – or goes – nobody is reached at the former URLs, so each member changes its own list before it starts.

// readdressed returns the URL of etcd.peers that differs from one of a member by its scheme only; "" when there is none.
func (c Config) readdressed(at string) string {
	was, err := url.Parse(at)
	if err != nil {
		return ""
	}
	for _, peer := range c.Peers {
		if now, err := url.Parse(peer); err == nil && now.Host == was.Host && now.Scheme != was.Scheme {
			return peer
		}
	}
	return ""
}

// readdress gives the members that a stopped server knows the scheme that they have in etcd.peers, and returns the changes.
func (c Config) readdress(log *zap.Logger) (changes []string, err error) {
	file := filepath.Join(c.DataDir, "member", "snap", "db")
	if st, err := os.Stat(file); len(c.Peers) < 2 || errors.Is(err, os.ErrNotExist) || err == nil && st.Size() == 0 {
		return nil, nil
	}
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	changed := map[string][]byte{} // by key
	var applied uint64
	var voters raftpb.ConfState
	err = db.View(func(tx *bbolt.Tx) error {
		if meta := tx.Bucket([]byte("meta")); meta != nil {
			applied = counter(meta.Get([]byte("consistent_index")))
		}
		bucket := tx.Bucket([]byte("members"))
		if bucket == nil {
			return nil
		}
		return bucket.ForEach(func(key, value []byte) error {
			var m membership.Member
			if err := json.Unmarshal(value, &m); err != nil {
				return fmt.Errorf("member %s: %w", key, err)
			}
			if m.IsLearner {
				voters.Learners = append(voters.Learners, uint64(m.ID))
			} else {
				voters.Voters = append(voters.Voters, uint64(m.ID))
			}
			for i, at := range m.PeerURLs {
				if now := c.readdressed(at); now != "" {
					m.PeerURLs[i] = now
					changes = append(changes, at+" → "+now)
					if changed[string(key)], err = json.Marshal(m); err != nil {
						return err
					}
				}
			}
			return nil
		})
	})
	if err != nil || len(changes) == 0 {
		return nil, err
	}
	if err := forget(filepath.Join(c.DataDir, "member", "wal"), applied, &voters, log); err != nil {
		return nil, fmt.Errorf("write-ahead log: %w", err)
	}
	return changes, db.Update(func(tx *bbolt.Tx) error {
		for key, value := range changed {
			if err := tx.Bucket([]byte("members")).Put([]byte(key), value); err != nil {
				return err
			}
		}
		return nil
	})
}

// forget marks in a log that the database has all changes up to one, so that the addresses in those are not read again.
func forget(dir string, applied uint64, voters *raftpb.ConfState, log *zap.Logger) error {
	known, err := wal.ValidSnapshotEntries(log, dir)
	if err != nil {
		return err
	}
	from := &walpb.Snapshot{}
	if n := len(known); n > 0 {
		from = &walpb.Snapshot{Index: new(known[n-1].GetIndex()), Term: new(known[n-1].GetTerm())}
	}
	for repaired := false; ; repaired = true {
		w, err := wal.Open(log, dir, from)
		if err != nil {
			return err
		}
		_, state, entries, err := w.ReadAll()
		if err == nil {
			return errors.Join(mark(w, state, entries, applied, voters), w.Close())
		}
		w.Close()
		if repaired || !errors.Is(err, io.ErrUnexpectedEOF) || !wal.Repair(log, dir) { // as etcd does after a crash
			return err
		}
	}
}

func mark(w *wal.WAL, state *raftpb.HardState, entries []*raftpb.Entry, applied uint64, voters *raftpb.ConfState) error {
	for _, e := range entries {
		if e.GetIndex() != applied {
			continue
		}
		if state.GetCommit() < applied { // what is applied was committed; that alone may be lost in a crash
			if err := w.Save(&raftpb.HardState{Term: new(state.GetTerm()), Vote: new(state.GetVote()), Commit: new(applied)}, nil); err != nil {
				return err
			}
		}
		return w.SaveSnapshot(&walpb.Snapshot{Index: new(applied), Term: new(e.GetTerm()), ConfState: voters})
	}
	return nil // marked before, or the log is shorter than the database: the start tells
}

// stale says what to do when members are still known by former URLs, because the process was killed soon after they were made; "" when all
// is well.
func (c Config) stale(members []Member) string {
	for _, m := range members {
		for _, at := range m.Peers {
			if now := c.readdressed(at); now != "" {
				return fmt.Sprintf("member %s is still known as %s instead of %s: start this analyzer again to change that", m.Name, at, now)
			}
		}
	}
	return ""
}

func (s *Service) readdress(log *zap.Logger) error {
	changes, err := s.cfg.readdress(log)
	if err != nil {
		return fmt.Errorf("change the URLs of members: %w", err)
	}
	if len(changes) > 0 {
		s.opts.Log.Warn("etcd: the members have other URLs than before: " + strings.Join(changes, ", "))
	}
	return nil
}
