package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// policyPath is where the policy is that all analyzers share.
const policyPath = "/api/rbac/policy"

// CheckRight asks whether a user may do an action to an object, and why; without a user, about the caller.
func (c *Client) CheckRight(ctx context.Context, user, object, action string, into any) error {
	ask := url.Values{"object": {object}, "action": {action}}
	if user != "" {
		ask.Set("user", user)
	}
	_, err := c.call(ctx, "check a right", http.MethodGet, "/api/rbac/check?"+ask.Encode(), nil, nil, into, http.StatusOK)
	return err
}

// Policy gets the stored policy. The warning is not empty when it is not in force, and tells why.
func (c *Client) Policy(ctx context.Context) (csv, warning string, err error) {
	resp, err := c.Do(ctx, http.MethodGet, policyPath, nil, nil)
	if err != nil {
		return "", "", fmt.Errorf("Failed to get the policy: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", "", answerError("get the policy", resp)
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", "", fmt.Errorf("Failed to get the policy: %w", err)
	}
	return string(text), resp.Header.Get("X-Skydive-Policy-Error"), nil
}

// SetPolicy replaces the stored policy; force takes one under which the caller could not change it any more.
func (c *Client) SetPolicy(ctx context.Context, csv string, force bool) error {
	return c.changePolicy(ctx, "set the policy", http.MethodPut, force, csv)
}

// DeletePolicy removes the stored policy.
func (c *Client) DeletePolicy(ctx context.Context, force bool) error {
	return c.changePolicy(ctx, "delete the policy", http.MethodDelete, force, "")
}

func (c *Client) changePolicy(ctx context.Context, op, method string, force bool, csv string) error {
	path := policyPath
	if force {
		path += "?force=true"
	}
	resp, err := c.Do(ctx, method, path, http.Header{"Content-Type": {"text/csv"}}, strings.NewReader(csv))
	if err != nil {
		return fmt.Errorf("Failed to %s: %w", op, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answerError(op, resp)
	}
	return nil
}
