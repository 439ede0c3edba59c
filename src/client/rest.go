package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"skydive/src/graph"
)

// In all calls below, kind is the name of a resource in the URL ("capture",
// "noderule", …) and into a pointer for encoding/json; a *json.RawMessage keeps
// the server's bytes. A nil into ignores the answer.

// List gets all resources of a kind, as an object by id.
func (c *Client) List(ctx context.Context, kind string, into any) error {
	_, err := c.call(ctx, "list "+kind, http.MethodGet, resourcePath(kind, ""), nil, nil, into, http.StatusOK)
	return err
}

// Get gets one resource.
func (c *Client) Get(ctx context.Context, kind, id string, into any) error {
	if id == "" {
		return fmt.Errorf("Failed to get %s: no id was given", kind)
	}
	_, err := c.call(ctx, "get "+kind, http.MethodGet, resourcePath(kind, id), nil, nil, into, http.StatusOK)
	return err
}

// Create makes a resource. A ttl above zero lets it expire.
func (c *Client) Create(ctx context.Context, kind string, body any, ttl time.Duration, into any) error {
	header := http.Header{}
	if ttl > 0 {
		header.Set("X-Resource-TTL", ttl.String())
	}
	_, err := c.call(ctx, "create "+kind, http.MethodPost, resourcePath(kind, ""), header, body, into, http.StatusCreated, http.StatusOK)
	return err
}

// PatchOp is one operation of RFC 6902: add, remove or replace.
type PatchOp struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// Patch changes a resource; patch is a list of PatchOp, or JSON of that shape. It
// reports false, and leaves into alone, when nothing had to change.
func (c *Client) Patch(ctx context.Context, kind, id string, patch, into any) (modified bool, err error) {
	if id == "" {
		return false, fmt.Errorf("Failed to update %s: no id was given", kind)
	}
	status, err := c.call(ctx, "update "+kind, http.MethodPatch, resourcePath(kind, id), nil, patch, into, http.StatusOK, http.StatusNotModified)
	return err == nil && status == http.StatusOK, err
}

// Delete removes a resource.
func (c *Client) Delete(ctx context.Context, kind, id string) error {
	if id == "" {
		return fmt.Errorf("Failed to delete %s: no id was given", kind)
	}
	_, err := c.call(ctx, "delete "+kind, http.MethodDelete, resourcePath(kind, id), nil, nil, nil, http.StatusOK)
	return err
}

// Query asks a Gremlin question and streams the answer: JSON, or what accept
// names (text/vnd.graphviz, application/vnd.tcpdump.pcap). The caller closes it.
func (c *Client) Query(ctx context.Context, gremlin, accept string) (io.ReadCloser, error) {
	body, err := json.Marshal(struct{ GremlinQuery string }{gremlin})
	if err != nil {
		return nil, err
	}
	if accept == "" {
		accept = "application/json"
	}
	resp, err := c.Do(ctx, http.MethodPost, "/api/topology", http.Header{
		"Accept": {accept}, "Content-Type": {"application/json"},
	}, strings.NewReader(string(body)))
	if err != nil {
		return nil, fmt.Errorf("Failed to query: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, answerError("", resp)
	}
	return resp.Body, nil
}

// QueryInto asks a Gremlin question and decodes the JSON answer.
func (c *Client) QueryInto(ctx context.Context, gremlin string, into any) error {
	r, err := c.Query(ctx, gremlin, "")
	if err != nil {
		return err
	}
	defer r.Close()
	if err := json.NewDecoder(r).Decode(into); err != nil {
		return fmt.Errorf("decode answer to %s: %w", gremlin, err)
	}
	return nil
}

// QueryNodes asks a question whose answer is nodes.
func (c *Client) QueryNodes(ctx context.Context, gremlin string) ([]*graph.Node, error) {
	var nodes []*graph.Node
	err := c.QueryInto(ctx, gremlin, &nodes)
	return nodes, err
}

// ErrNoGraph tells that the answer to QueryGraph was something else.
var ErrNoGraph = errors.New("the answer is not a graph")

// QueryGraph asks a question whose answer is a graph (G, or one that ends in
// SubGraph).
func (c *Client) QueryGraph(ctx context.Context, gremlin string) (nodes []*graph.Node, edges []*graph.Edge, err error) {
	var graphs []struct {
		Nodes []*graph.Node
		Edges []*graph.Edge
	}
	if err := c.QueryInto(ctx, gremlin, &graphs); err != nil {
		return nil, nil, err
	}
	if len(graphs) != 1 {
		return nil, nil, fmt.Errorf("query %s: %w", gremlin, ErrNoGraph)
	}
	return graphs[0].Nodes, graphs[0].Edges, nil
}

// Status gets /api/status.
func (c *Client) Status(ctx context.Context, into any) error {
	_, err := c.call(ctx, "get status", http.MethodGet, "/api/status", nil, nil, into, http.StatusOK)
	return err
}

// Info is who answers.
type Info struct{ Host, Version, Service string }

// Info gets /api.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var info Info
	_, err := c.call(ctx, "get server information", http.MethodGet, "/api", nil, nil, &info, http.StatusOK)
	return info, err
}

// Config gets the value of a configuration key of the server.
func (c *Client) Config(ctx context.Context, key string, into any) error {
	_, err := c.call(ctx, "get configuration", http.MethodGet, "/api/config/"+url.PathEscape(key), nil, nil, into, http.StatusOK)
	return err
}

// Permission is one right of a user.
type Permission struct {
	Object, Action string
	Allowed        bool
}

// Login is the answer to a login. The token is empty when the server asks for none.
type Login struct {
	Token       string
	Permissions []Permission
}

// Login exchanges user and password for a token, which all later calls use.
func (c *Client) Login(ctx context.Context) (Login, error) {
	form := url.Values{"username": {c.o.Username}, "password": {c.o.Password}}
	resp, err := c.Do(ctx, http.MethodPost, "/login", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, strings.NewReader(form.Encode()))
	if err != nil {
		return Login{}, fmt.Errorf("Failed to log in: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Login{}, answerError("log in", resp)
	}
	var login Login
	if err := json.NewDecoder(resp.Body).Decode(&login); err != nil {
		return Login{}, fmt.Errorf("Failed to log in: decode answer: %w", err)
	}
	if login.Token != "" {
		c.token.Store(&login.Token)
	}
	return login, nil
}

// ImportPcap sends a pcap file, whose flows the analyzer then stores.
func (c *Client) ImportPcap(ctx context.Context, file io.Reader) error {
	resp, err := c.Do(ctx, http.MethodPost, "/api/pcap", http.Header{"Content-Type": {"application/octet-stream"}}, file)
	if err != nil {
		return fmt.Errorf("Failed to import pcap: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return answerError("import pcap", resp)
	}
	return nil
}

// CallWorkflow runs a workflow on the analyzer and decodes what it returns.
func (c *Client) CallWorkflow(ctx context.Context, id string, params []any, into any) error {
	if id == "" {
		return errors.New("Failed to call workflow: no id was given")
	}
	_, err := c.call(ctx, "call workflow", http.MethodPost, resourcePath("workflow", id)+"/call", nil, struct{ Params []any }{params}, into, http.StatusOK)
	return err
}
