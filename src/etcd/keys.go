package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/client/v3"
)

// keysPath is where the API of etcd's second generation is, which its servers no longer have: documented command lines upload policies
// to it.
const keysPath = "/v2/keys"

const (
	maxKey    = 1024
	maxValue  = 1 << 20
	maxForm   = 3*maxValue + 4096 // every byte of a value may be escaped
	maxNodes  = 10_000            // of an answer
	maxCalls  = 32                // at a time
	maxWaits  = 64                // at a time
	bodyLimit = 10 * time.Second  // for a request to arrive
)

// keys answers the requests of curl and old clients below keysPath: GET (recursive, wait, waitIndex), PUT (prevExist, prevValue,
// prevIndex, ttl) and DELETE (recursive). Key /v2/keys/a/b is /a/b of the store. Directories are only what keys have in common: they
// cannot be made, and vanish with their last key; names that begin with _ are not listed.
//
// It answers whoever is on this host, shows a client certificate that was verified, or is authorized; and never a page in a browser.
type keys struct {
	s            *Service
	ending       <-chan struct{} // ends all waits
	calls, waits chan struct{}   // slots in use
}

func newKeys(s *Service, ending <-chan struct{}) *keys {
	return &keys{s: s, ending: ending, calls: make(chan struct{}, maxCalls), waits: make(chan struct{}, maxWaits)}
}

// answer is what a request gets, in the form of the second generation.
type answer struct {
	Action   string `json:"action"`
	Node     *node  `json:"node,omitempty"`
	PrevNode *node  `json:"prevNode,omitempty"`
	index    int64
	created  bool
}

type node struct {
	Key        string     `json:"key,omitempty"` // none for the root
	Value      *string    `json:"value,omitempty"`
	Dir        bool       `json:"dir,omitempty"`
	Expiration *time.Time `json:"expiration,omitempty"`
	TTL        int64      `json:"ttl,omitempty"`
	Nodes      []*node    `json:"nodes,omitempty"`
	Modified   int64      `json:"modifiedIndex,omitempty"`
	Created    int64      `json:"createdIndex,omitempty"`
}

// keyError is a refusal, with the codes of the second generation.
type keyError struct {
	status  int
	Code    int    `json:"errorCode"`
	Message string `json:"message"`
	Cause   string `json:"cause,omitempty"`
	Index   int64  `json:"index"`
}

func (e *keyError) Error() string { return e.Message + ": " + e.Cause }

func refuse(status, code int, message, cause string) *keyError {
	return &keyError{status: status, Code: code, Message: message, Cause: cause}
}

func invalid(cause string) *keyError {
	return refuse(http.StatusBadRequest, 209, "Invalid field", cause)
}

func notFound(key string, index int64) *keyError {
	return &keyError{status: http.StatusNotFound, Code: 100, Message: "Key not found", Cause: key, Index: index}
}

func (k *keys) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	if err := k.admit(r); err != nil {
		k.fail(w, err)
		return
	}
	slots := k.calls
	wait := r.Method == http.MethodGet && r.URL.Query().Get("wait") == "true"
	if wait {
		slots = k.waits
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		k.fail(w, refuse(http.StatusServiceUnavailable, 300, "Too many requests at a time", strconv.Itoa(cap(slots))))
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyLimit)) // a server that cannot has limits of its own
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if r.URL.Path == membersPath || strings.HasPrefix(r.URL.Path, membersPath+"/") {
		if err := k.members(w, r); err != nil {
			k.fail(w, err)
		}
		return
	}
	a, err := k.answer(w, r, wait)
	if err != nil {
		k.fail(w, err)
		return
	}
	if a == nil {
		return // a wait came to nothing
	}
	h.Set("X-Etcd-Index", strconv.FormatInt(a.index, 10))
	if a.created {
		w.WriteHeader(http.StatusCreated)
	}
	_ = json.NewEncoder(w).Encode(a) // the client is gone
}

func (k *keys) fail(w http.ResponseWriter, err error) {
	var e *keyError
	if !errors.As(err, &e) {
		e = refuse(http.StatusInternalServerError, 300, "etcd failed", err.Error())
		if errors.Is(err, ErrNotReady) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrFull) {
			e.status = http.StatusServiceUnavailable
		}
	}
	w.Header().Set("X-Etcd-Index", strconv.FormatInt(e.Index, 10))
	w.WriteHeader(e.status)
	_ = json.NewEncoder(w).Encode(e) // the client is gone
}

// admit keeps out who must not get at captures and policies.
func (k *keys) admit(r *http.Request) error {
	if site := r.Header.Get("Sec-Fetch-Site"); r.Header.Get("Origin") != "" || site != "" && site != "none" {
		return refuse(http.StatusForbidden, 110, "The request requires user authentication", "pages in a browser are not answered")
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 || k.s.opts.Authorized != nil && k.s.opts.Authorized(r) {
		return nil
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return refuse(http.StatusUnauthorized, 110, "The request requires user authentication",
			"from other hosts it takes a client certificate or the credentials of the cluster; or use: skydive client rbac policy")
	}
	// The name of a page that resolves to this address is not one of these.
	name := r.Host
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	if ip := net.ParseIP(strings.Trim(name, "[]")); name != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return refuse(http.StatusMisdirectedRequest, 110, "The request requires user authentication", "from this host use localhost, not "+strconv.Quote(name))
	}
	return nil
}

func (k *keys) answer(w http.ResponseWriter, r *http.Request, wait bool) (*answer, error) {
	key := path.Clean("/" + strings.TrimPrefix(r.URL.Path, keysPath))
	if len(key) > maxKey {
		return nil, invalid("the key is longer than " + strconv.Itoa(maxKey) + " bytes")
	}
	if err := r.ParseForm(); err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, refuse(http.StatusRequestEntityTooLarge, 210, "Invalid POST form", "more than "+strconv.Itoa(maxForm)+" bytes")
		}
		return nil, refuse(http.StatusBadRequest, 210, "Invalid POST form", err.Error())
	}
	form := r.Form
	for _, name := range []string{"recursive", "wait", "prevExist", "sorted", "quorum", "dir"} {
		if v := form.Get(name); v != "" && v != "true" && v != "false" {
			return nil, invalid(name + " is neither true nor false")
		}
	}
	for _, name := range []string{"prevIndex", "waitIndex", "ttl"} {
		if v := form.Get(name); v != "" {
			if n, err := strconv.ParseInt(v, 10, 64); err != nil || n < 0 {
				return nil, refuse(http.StatusBadRequest, 203, "The given index in POST form is not a number", name)
			}
		}
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if wait {
			return k.wait(w, r, key, form)
		}
		return k.get(r.Context(), key, form.Get("recursive") == "true")
	case http.MethodPut:
		return k.put(r.Context(), key, form)
	case http.MethodDelete:
		return k.remove(r.Context(), key, form)
	}
	w.Header().Set("Allow", "GET, HEAD, PUT, DELETE")
	return nil, refuse(http.StatusMethodNotAllowed, 209, "Invalid method", r.Method)
}

func number(form url.Values, name string) int64 {
	n, _ := strconv.ParseInt(form.Get(name), 10, 64) // 0 is none; checked before
	return n
}

func (k *keys) get(ctx context.Context, key string, recursive bool) (a *answer, err error) {
	err = k.s.do(ctx, "read "+key, func(ctx context.Context, c *clientv3.Client) error {
		one, err := c.Get(ctx, key)
		if err != nil {
			return err
		}
		a = &answer{Action: "get", index: one.Header.Revision}
		if len(one.Kvs) > 0 {
			a.Node = file(one.Kvs[0])
			return expiration(ctx, c, a.Node, one.Kvs[0].Lease)
		}
		all, err := c.Get(ctx, strings.TrimSuffix(key, "/")+"/", clientv3.WithPrefix(), clientv3.WithLimit(maxNodes))
		if err != nil {
			return err
		}
		if a.index = all.Header.Revision; len(all.Kvs) == 0 && key != "/" {
			return notFound(key, a.index)
		}
		if all.More {
			return refuse(http.StatusRequestEntityTooLarge, 300, "Too many keys", key)
		}
		a.Node = tree(key, all.Kvs, recursive)
		return nil
	})
	return a, err
}

// expiration adds the end of a key that has one.
func expiration(ctx context.Context, c *clientv3.Client, n *node, lease int64) error {
	if lease == 0 {
		return nil
	}
	left, err := c.TimeToLive(ctx, clientv3.LeaseID(lease))
	if err == nil && left.TTL > 0 {
		n.TTL = left.TTL
		n.Expiration = new(time.Now().UTC().Add(time.Duration(left.TTL) * time.Second))
	}
	return err
}

func (k *keys) put(ctx context.Context, key string, form url.Values) (*answer, error) {
	value := form.Get("value")
	switch {
	case key == "/":
		return nil, refuse(http.StatusForbidden, 107, "Root is read only", key)
	case form.Get("dir") == "true":
		return nil, invalid("directories are made by the keys in them")
	case len(value) > maxValue:
		return nil, refuse(http.StatusRequestEntityTooLarge, 209, "Invalid field", "the value is larger than "+strconv.Itoa(maxValue)+" bytes")
	}
	if k.s.opts.Check != nil {
		if err := k.s.opts.Check(key, []byte(value)); err != nil {
			return nil, invalid(err.Error())
		}
	}
	a := &answer{Action: "set"}
	var conditions []clientv3.Cmp
	switch form.Get("prevExist") {
	case "true":
		a.Action = "update"
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(key), ">", 0))
	case "false":
		a.Action = "create"
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
	}
	if more := compare(key, form); len(more) > 0 {
		a.Action, conditions = "compareAndSwap", append(conditions, more...)
	}
	ttl := time.Duration(min(number(form, "ttl"), maxTTL)) * time.Second
	err := k.s.do(ctx, "write "+key, func(ctx context.Context, c *clientv3.Client) error {
		put, lease, err := writes(ctx, c, key, value, ttl)
		if err != nil {
			return err
		}
		r, err := c.Txn(ctx).If(conditions...).Then(put...).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return err // the lease, if any, ends by itself
		}
		if !r.Succeeded {
			k.s.revoke(ctx, c, lease)
			return failedCompare(key, r, form.Get("prevExist") == "false")
		}
		a.index = r.Header.Revision
		a.Node = &node{Key: key, Value: &value, Modified: a.index, Created: a.index}
		if prev := r.Responses[0].GetResponsePut().PrevKv; prev != nil {
			a.PrevNode = file(prev)
			a.Node.Created = prev.CreateRevision
		}
		a.created = a.PrevNode == nil
		return expiration(ctx, c, a.Node, int64(lease))
	})
	return a, err
}

// compare returns the conditions of a request on what a key was before.
func compare(key string, form url.Values) (list []clientv3.Cmp) {
	if form.Has("prevValue") {
		list = append(list, clientv3.Compare(clientv3.Value(key), "=", form.Get("prevValue")))
	}
	if n := number(form, "prevIndex"); n > 0 {
		list = append(list, clientv3.Compare(clientv3.ModRevision(key), "=", n))
	}
	return list
}

func failedCompare(key string, r *clientv3.TxnResponse, mustNotExist bool) *keyError {
	kvs := r.Responses[0].GetResponseRange().Kvs
	switch {
	case len(kvs) == 0:
		return notFound(key, r.Header.Revision)
	case mustNotExist:
		return &keyError{http.StatusPreconditionFailed, 105, "Key already exists", key, r.Header.Revision}
	}
	return &keyError{http.StatusPreconditionFailed, 101, "Compare failed", key, r.Header.Revision}
}

func (k *keys) remove(ctx context.Context, key string, form url.Values) (*answer, error) {
	if key == "/" {
		return nil, refuse(http.StatusForbidden, 107, "Root is read only", key)
	}
	a := &answer{Action: "delete"}
	conditions := append(compare(key, form), clientv3.Compare(clientv3.CreateRevision(key), ">", 0))
	if len(conditions) > 1 {
		a.Action = "compareAndDelete"
	}
	recursive := form.Get("recursive") == "true"
	err := k.s.do(ctx, "delete "+key, func(ctx context.Context, c *clientv3.Client) error {
		below := clientv3.OpGet(key+"/", clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(1))
		then := []clientv3.Op{clientv3.OpDelete(key, clientv3.WithPrevKV()), clientv3.OpDelete(endOf(key))}
		if recursive {
			then = append(then, clientv3.OpDelete(key+"/", clientv3.WithPrefix()), clientv3.OpDelete(endOf(key)+"/", clientv3.WithPrefix()))
		}
		r, err := c.Txn(ctx).If(conditions...).Then(then...).Else(clientv3.OpGet(key), below).Commit()
		if err != nil {
			return err
		}
		a.index = r.Header.Revision
		if r.Succeeded {
			a.PrevNode = file(r.Responses[0].GetResponseDeleteRange().PrevKvs[0])
			a.Node = &node{Key: key, Modified: a.index, Created: a.PrevNode.Created}
			return nil
		}
		dir := r.Responses[1].GetResponseRange().Count > 0
		switch isFile := r.Responses[0].GetResponseRange().Count > 0; {
		case isFile || !dir:
			return failedCompare(key, r, false)
		case !recursive:
			return &keyError{http.StatusForbidden, 102, "Not a file", key, a.index}
		}
		gone, err := c.Txn(ctx).Then(then[2:]...).Commit()
		if err == nil {
			a.index = gone.Header.Revision
			a.Node = &node{Key: key, Dir: true, Modified: a.index}
			a.PrevNode = &node{Key: key, Dir: true}
		}
		return err
	})
	return a, err
}

// mount adds what keys answers to a set of handlers by path.
func (k *keys) mount(to map[string]http.Handler) {
	for _, path := range []string{keysPath, keysPath + "/", membersPath, membersPath + "/"} {
		to[path] = k
	}
}
