package etcd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/embed"
)

// inspect reads the database from beginning to end before etcd does – on a damaged one etcd would end the process – and returns how
// many changes went into it. The caller has made sure that nobody else uses it.
func inspect(dir string) (applied uint64, err error) {
	file := filepath.Join(dir, "member", "snap", "db")
	if st, err := os.Stat(file); errors.Is(err, os.ErrNotExist) || err == nil && st.Size() == 0 {
		return 0, nil // a new one, or one that etcd makes anew from its log
	}
	if applied, err = readThrough(file); err != nil {
		return 0, fmt.Errorf("database %s is damaged: %w", file, err)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	if err == nil && len(logs) == 0 && applied > 0 {
		err = fmt.Errorf("the write-ahead log of %d changes in %s is gone", applied, filepath.Join(dir, "member", "wal"))
	}
	return applied, err
}

// cut tells whether the log of a lone member ends before the changes that its database has: etcd reads a damaged one up to a place that
// looks like its end. The database would be right, but for the changes of the last seconds, and ignore new ones.
func cut(server *embed.Etcd, applied uint64) bool {
	return server.Server.Leader() != 0 && len(server.Server.Cluster().Members()) <= 1 && server.Server.CommittedIndex() < applied
}

// readThrough reads all that a database holds and returns how many changes went into it.
func readThrough(file string) (applied uint64, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a file that is shorter than it says
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return 0, err
	}
	defer db.Close()
	touched := 0
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			if string(name) == "meta" {
				applied = counter(b.Get([]byte("consistent_index")))
			}
			return b.ForEach(func(k, v []byte) error {
				// A part that is not there, or is not what it says it is, makes itself felt.
				touched += len(k)
				if len(v) > 0 {
					touched += int(v[0]) + int(v[len(v)-1])
				}
				return nil
			})
		})
	})
	return applied, err
}

// counter is 0 for what is none.
func counter(v []byte) uint64 {
	if len(v) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}
