package etcd

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/v3"
)

// waitLimit is when a wait ends with an empty answer.
const waitLimit = 5 * time.Minute

// wait answers the next change of a key, or of a tree, or the first one from waitIndex on.
func (k *keys) wait(w http.ResponseWriter, r *http.Request, key string, form url.Values) (*answer, error) {
	_, c, done := k.s.watcher()
	if c == nil {
		return nil, ErrNotReady
	}
	defer done()
	ctx, cancel := context.WithTimeout(r.Context(), waitLimit)
	defer cancel()
	options := []clientv3.OpOption{clientv3.WithPrevKV(), clientv3.WithCreatedNotify()}
	if n := number(form, "waitIndex"); n > 0 {
		options = append(options, clientv3.WithRev(n))
	}
	recursive := form.Get("recursive") == "true"
	if recursive {
		options = append(options, clientv3.WithPrefix())
	}
	changes := c.Watch(ctx, key, options...)
	for {
		select {
		case <-k.ending:
			return nil, nil
		case change, ok := <-changes:
			if !ok {
				return nil, nil
			}
			if err := change.Err(); errors.Is(err, rpctypes.ErrCompacted) {
				return nil, &keyError{http.StatusBadRequest, 401, "The event in requested index is outdated and cleared", key, change.Header.Revision}
			} else if err != nil {
				return nil, err
			}
			for _, e := range change.Events {
				if at := string(e.Kv.Key); at != key && (!below(key, at) || hidden(at[len(key):])) {
					continue
				}
				a := &answer{Action: "set", Node: file(e.Kv), index: change.Header.Revision}
				if e.Type == clientv3.EventTypeDelete {
					a.Action, a.Node.Value = "delete", nil
				}
				if e.PrevKv != nil {
					a.PrevNode = file(e.PrevKv)
				}
				return a, nil
			}
			if change.Created {
				// So that whoever waits knows that nothing is missed from now on.
				w.Header().Set("X-Etcd-Index", strconv.FormatInt(change.Header.Revision, 10))
				_ = http.NewResponseController(w).Flush() // an optional courtesy
			}
		}
	}
}
