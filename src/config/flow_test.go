package config

import (
	"maps"
	"strings"
	"testing"
	"time"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "1024": 1024, "64KiB": 64 << 10, "4 MiB": 4 << 20, "10gib": 10 << 30, "2G": 2 << 30, "1TB": 1 << 40, "1536KiB": 1536 << 10} {
		got, err := parseSize(text)
		if err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
		if again, err := parseSize(got.String()); err != nil || again != got {
			t.Errorf("%s is written %s, which is %d, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "x", "-1", "1.5GiB", "MiB", "9999999TiB", "1KiBKiB", "1PiB"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

func TestApplications(t *testing.T) {
	c, problems := mustLoad(t, nil, nil, "flow:\n  application_ports: {tcp: {8080: Web, '5432': postgres}, udp: {514: syslog}}\n  application_timeout: {web: 5}\n")
	tcp, udp, timeouts, err := c.Flow.Applications()
	if err != nil || len(problems) != 0 || !maps.Equal(tcp, map[uint16]string{8080: "WEB", 5432: "POSTGRES"}) || !maps.Equal(udp, map[uint16]string{514: "SYSLOG"}) ||
		!maps.Equal(timeouts, map[string]time.Duration{"WEB": 5 * time.Second}) {
		t.Errorf("%v %v %v %v %v", tcp, udp, timeouts, err, problems)
	}
	if _, _, timeouts, _ = (mustFlow(t, "{}")).Applications(); !maps.Equal(timeouts, map[string]time.Duration{"ARP": 10 * time.Second, "DNS": 10 * time.Second}) {
		t.Errorf("defaults: %v", timeouts)
	}
	for text, want := range map[string]string{
		"application_ports.tcp: {http: 80}":           "flow.application_ports.tcp: want a map of ports to names, not http: 80",
		"application_ports.udp: {70000: x}":           "flow.application_ports.udp",
		"application_timeout: {dns: soon}":            "flow.application_timeout: want a map of applications to seconds, not dns: soon",
		"application_timeout: {dns: 0}":               "flow.application_timeout",
		"{application_ports.tcp: {1: ''}, update: 1}": "flow.application_ports.tcp",
	} {
		if !strings.HasPrefix(text, "{") {
			text = "{" + text + "}"
		}
		f := mustFlow(t, text)
		if _, _, _, err := f.Applications(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func mustFlow(t *testing.T, text string) Flow {
	c, _ := mustLoad(t, nil, nil, "flow: "+text+"\n")
	return c.Flow
}
