package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Within calls fn on a thread that is in the host's network; sockets that fn opens stay there.
func (h *Host) Within(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		// The thread changes its namespace for good: it ends with this goroutine, which never unlocks it.
		runtime.LockOSThread()
		done <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", h.pid()))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network of %s: %w", h.Name, err)
			}
			return fn()
		}()
	}()
	return <-done
}

// Dial connects from the host's own network, whatever namespace the caller is in.
func (h *Host) Dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = h.Within(func() (err error) {
		// An address without names and with one family: the dialler then opens its socket on this thread.
		conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// HTTP returns a client that sends its requests from the host.
func (h *Host) HTTP() *http.Client {
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: h.Dial}}
}

// Request sends a request with a JSON body (nil for none) from the host to path of a service at addr, and returns status and body.
func (h *Host) Request(method, addr, path string, body any) (int, []byte, error) {
	var in io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, "http://"+addr+path, in)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	client := h.HTTP()
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, text, err
}

// Gremlin asks the analyzer or agent at addr and decodes the answer into out.
func (h *Host) Gremlin(addr, query string, out any) error {
	status, text, err := h.Request("POST", addr, "/api/topology", map[string]string{"GremlinQuery": query})
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s: %d %s", query, status, bytes.TrimSpace(text))
	}
	return json.Unmarshal(text, out)
}

// Status returns /api/status of the service at addr.
func (h *Host) Status(addr string) (map[string]any, error) {
	status, text, err := h.Request("GET", addr, "/api/status", nil)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("status: %d %s", status, text)
	}
	var out map[string]any
	return out, json.Unmarshal(text, &out)
}
