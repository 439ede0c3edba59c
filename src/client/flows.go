package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"

	"skydive/src/flow"
	"skydive/src/wire"
)

// QueryFlows asks a Gremlin question whose answer is flows.
func (c *Client) QueryFlows(ctx context.Context, gremlin string) ([]*flow.Flow, error) {
	var flows []*flow.Flow
	if err := c.QueryInto(ctx, gremlin, &flows); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(flows, func(f *flow.Flow) bool { return f == nil || f.UUID == "" }) {
		return nil, fmt.Errorf("the answer to %s is not flows", gremlin)
	}
	return flows, nil
}

// FollowFlows calls handle with flows as agents report them – all, or those of one capture –, until ctx ends, handle returns an error,
// or the connection is lost. The end of ctx and Stop are no errors.
func (c *Client) FollowFlows(ctx context.Context, capture string, handle func([]*flow.Flow) error) error {
	namespace := "flow"
	if capture != "" {
		namespace += "/" + capture
	}
	return c.Subscribe(ctx, SubscriberOptions{Path: "/ws/subscriber/flow", Namespaces: []string{namespace}}, func(m *wire.Message) error {
		if m.Type != "store" {
			return nil
		}
		var flows []*flow.Flow
		if err := json.Unmarshal(m.Obj, &flows); err != nil {
			return fmt.Errorf("decode flows: %w", err)
		}
		return handle(flows)
	})
}

// CapturePackets streams the packets of a capture, as pcapng, while it runs. The caller closes it.
func (c *Client) CapturePackets(ctx context.Context, id string) (io.ReadCloser, error) {
	if id == "" {
		return nil, fmt.Errorf("Failed to stream capture: no id was given")
	}
	resp, err := c.Do(ctx, http.MethodGet, resourcePath("capture", id)+"/pcapng", nil, nil)
	if err != nil {
		return nil, fmt.Errorf("Failed to stream capture: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, answerError("stream capture", resp)
	}
	return resp.Body, nil
}
