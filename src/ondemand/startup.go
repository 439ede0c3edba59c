package ondemand

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"skydive/src/resource"
)

// CaptureStore is where captures are kept. Create fails with fs.ErrExist when the key is taken.
type CaptureStore interface {
	List(ctx context.Context, prefix string) (map[string][]byte, error)
	Create(ctx context.Context, key string, value []byte, ttl time.Duration) error
}

// EnsureCapture stores a capture unless one that does the same is stored. Its identifier follows from what it does, so that analyzers
// that start together make one.
func EnsureCapture(ctx context.Context, s CaptureStore, c resource.Capture) (created bool, err error) {
	c.SetDefaults(resource.Defaults{Now: time.Now()})
	if err := c.Validate(); err != nil {
		return false, err
	}
	stored, err := s.List(ctx, "/capture/")
	if err != nil {
		return false, err
	}
	for _, value := range stored {
		other, err := kindOf("capture").Decode(value)
		if err == nil && c.Conflict(other) != nil {
			return false, nil
		}
	}
	c.UUID = resource.NameID(fmt.Sprintf("%q %q %q", c.GremlinQuery, c.BPFFilter, c.Type))
	text, err := json.Marshal(&c)
	if err != nil {
		return false, err
	}
	err = s.Create(ctx, "/capture/"+c.UUID, text, 0)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}
