package gremlin

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Slice is the range of time that a Context step asks for. Point says that it is one instant (Start equals Last):
// then each element shows its one state at that time, otherwise every state within the range.
type Slice struct {
	Start, Last time.Time
	Point       bool
}

// anyTime stands for now where only the syntax matters.
var anyTime = time.Unix(0, 0)

// Slice resolves the parameters of a Context step that Parse or New accepted.
func (s Step) Slice(now time.Time) (Slice, error) {
	if s.Kind != Context || len(s.Args) == 0 {
		return Slice{}, errors.New("resolve time: not a Context step")
	}
	t, err := parseTime(s.Args[0], now)
	if err != nil {
		return Slice{}, fmt.Errorf("resolve time: %w", err)
	}
	if len(s.Args) == 1 {
		return Slice{t, t, true}, nil
	}
	if s.Args[1] == Forever {
		return Slice{time.Unix(0, 0), t, false}, nil
	}
	d, err := parseDuration(s.Args[1])
	if err != nil {
		return Slice{}, fmt.Errorf("resolve duration: %w", err)
	}
	return Slice{t.Add(-d), t, false}, nil
}

// parseTime takes NOW, seconds or milliseconds since the epoch, RFC1123, or a duration relative to now.
func parseTime(a Arg, now time.Time) (time.Time, error) {
	switch a := a.(type) {
	case Constant:
		if a == Now {
			return now, nil
		}
	case int64:
		if a <= math.MaxInt32 {
			return time.Unix(a, 0), nil
		}
		return time.UnixMilli(a), nil
	case string:
		for _, layout := range []string{time.RFC1123, time.RFC1123Z} {
			if t, err := time.Parse(layout, a); err == nil {
				return t, nil
			}
		}
		d, err := time.ParseDuration(a)
		if err != nil {
			return time.Time{}, errTime
		}
		return now.Add(d), nil
	}
	return time.Time{}, errors.New("Key 'Context' must be either an integer or a string")
}

func parseDuration(a Arg) (time.Duration, error) {
	var d time.Duration
	switch a := a.(type) {
	case int64:
		if a > int64(math.MaxInt64/time.Second) {
			return 0, errors.New("duration is too long")
		}
		d = time.Duration(a) * time.Second
	case string:
		var err error
		if d, err = time.ParseDuration(a); err != nil {
			return 0, err
		}
	default:
		return 0, errors.New("duration must be seconds, a Go duration or FOREVER")
	}
	if d < 0 {
		return 0, errors.New("duration must not be negative")
	}
	return d, nil
}
