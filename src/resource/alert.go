package resource

import (
	"errors"
	"strings"
	"time"
)

// Alert watches an expression and acts when it becomes true.
type Alert struct {
	Identity
	Name        string    `json:",omitempty"`
	Description string    `json:",omitempty"`
	Expression  string    `json:",omitempty"` // Gremlin, or else JavaScript
	Action      string    `json:",omitempty"` // "", an http(s) URL to post to, or file:///path to run
	Trigger     string    `json:",omitempty"` // "" or graph: on each change; duration:<Go duration>: each time that is over
	CreateTime  time.Time // RFC 3339 with nanoseconds, UTC
}

// SetDefaults fills in CreateTime.
func (a *Alert) SetDefaults(d Defaults) {
	if a.CreateTime.IsZero() {
		a.CreateTime = d.Now.UTC()
	}
}

// Validate implements Resource.
func (a *Alert) Validate() error {
	var faults []error
	if a.Expression == "" {
		faults = append(faults, fault("Expression", "zero value"))
	}
	scheme, _, found := strings.Cut(a.Action, "://")
	if a.Action != "" && (!found || scheme != "http" && scheme != "https" && scheme != "file") {
		faults = append(faults, fault("Action", "want http://, https:// or file://"))
	}
	if text, ok := strings.CutPrefix(a.Trigger, "duration:"); ok && text != "" {
		if d, err := time.ParseDuration(text); err != nil || d <= 0 {
			faults = append(faults, fault("Trigger", "want a duration above 0 such as duration:10s"))
		}
	} else if ok || a.Trigger != "" && a.Trigger != "graph" {
		faults = append(faults, fault("Trigger", "regular expression mismatch: want graph or duration:<time>"))
	}
	return errors.Join(faults...)
}
