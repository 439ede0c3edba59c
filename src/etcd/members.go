package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/v3"
)

// membersPath is where the members of the cluster are, to be looked at and removed, in the form of etcd's second generation.
const membersPath = "/v2/members"

// members lists the members of the cluster, or removes one that is gone for good.
func (k *keys) members(w http.ResponseWriter, r *http.Request) error {
	type member struct {
		ID      string   `json:"id"`
		Name    string   `json:"name"`
		Peers   []string `json:"peerURLs"`
		Clients []string `json:"clientURLs"`
	}
	id := strings.Trim(strings.TrimPrefix(r.URL.Path, membersPath), "/")
	switch {
	case r.Method == http.MethodGet && id == "":
		list := []member{}
		err := k.s.do(r.Context(), "list members", func(ctx context.Context, c *clientv3.Client) error {
			all, err := c.MemberList(ctx)
			if err != nil {
				return err
			}
			for _, m := range all.Members {
				list = append(list, member{strconv.FormatUint(m.ID, 16), m.Name, m.PeerURLs, m.ClientURLs})
			}
			return nil
		})
		if err == nil {
			_ = json.NewEncoder(w).Encode(map[string][]member{"members": list}) // the client is gone
		}
		return err
	case r.Method == http.MethodDelete && id != "":
		number, err := strconv.ParseUint(id, 16, 64)
		if err != nil {
			return refuse(http.StatusNotFound, 100, "No such member", id)
		}
		err = k.s.do(r.Context(), "remove member", func(ctx context.Context, c *clientv3.Client) error {
			_, err := c.MemberRemove(ctx, number)
			return err
		})
		if errors.Is(err, rpctypes.ErrMemberNotFound) {
			return refuse(http.StatusNotFound, 100, "No such member", id)
		}
		if err == nil {
			w.WriteHeader(http.StatusNoContent)
		}
		return err
	}
	w.Header().Set("Allow", "GET, DELETE")
	return refuse(http.StatusMethodNotAllowed, 209, "Invalid method", r.Method)
}
