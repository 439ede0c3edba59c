package etcd

import (
	"path"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// file is the node of a key.
func file(kv *mvccpb.KeyValue) *node {
	value := string(kv.Value)
	return &node{Key: string(kv.Key), Value: &value, Modified: kv.ModRevision, Created: kv.CreateRevision}
}

// below tells whether a key is in a directory, at any depth.
func below(dir, key string) bool {
	return strings.HasPrefix(key, strings.TrimSuffix(dir, "/")+"/")
}

// hidden tells whether a path has a part that is not listed.
func hidden(at string) bool { return strings.HasPrefix(at, "_") || strings.Contains(at, "/_") }

// tree is the node of a directory with what is directly in it, or with all below it. Keys come sorted, as from etcd.
func tree(dir string, kvs []*mvccpb.KeyValue, recursive bool) *node {
	top := &node{Key: dir, Dir: true}
	if dir == "/" {
		top.Key = ""
	}
	dirs := map[string]*node{dir: top}
	// in returns the node of a directory that is, like those above it, listed; nil when it is not.
	var in func(at string) *node
	in = func(at string) *node {
		if n, ok := dirs[at]; ok {
			return n
		}
		up := in(path.Dir(at))
		var n *node
		if up != nil && !strings.HasPrefix(path.Base(at), "_") && (recursive || up == top) {
			n = &node{Key: at, Dir: true}
			up.Nodes = append(up.Nodes, n)
		}
		dirs[at] = n
		return n
	}
	for _, kv := range kvs {
		key := string(kv.Key)
		// Keys that this API could not address are not shown by it either.
		if !below(dir, key) || key != path.Clean(key) || strings.HasPrefix(path.Base(key), "_") {
			continue
		}
		up := in(path.Dir(key))
		if up == nil || up != top && !recursive {
			continue
		}
		n := file(kv)
		dirs[key] = n // a key may have keys below it, too
		up.Nodes = append(up.Nodes, n)
	}
	return top
}
