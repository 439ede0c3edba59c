// Package containers holds no code of its own: only this test of the files beside it.
package containers

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"skydive/src/config"
)

func TestConfigurationOfTheImage(t *testing.T) {
	for _, p := range config.Check(config.Options{Files: []string{"skydive.yml"}}) {
		t.Error(p)
	}
}

// The settings must have an effect, and privileges must be those that an agent can use and no more.
func TestCompose(t *testing.T) {
	text, err := os.ReadFile("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	type service struct {
		Image, Pid, User, Restart string
		Network                   string `yaml:"network_mode"`
		Command, Ports, Volumes   []string
		Add                       []string `yaml:"cap_add"`
		Drop                      []string `yaml:"cap_drop"`
		Security                  []string `yaml:"security_opt"`
		Environment, Build        map[string]string
		Privileged                bool
		ReadOnly                  bool `yaml:"read_only"`
	}
	var file struct {
		Services map[string]service
		Volumes  map[string]any
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	for name, s := range file.Services {
		if s.Image != file.Services["analyzer"].Image || !s.ReadOnly || s.Privileged || !slices.Equal(s.Drop, []string{"ALL"}) || !slices.Contains(s.Security, "no-new-privileges") {
			t.Errorf("%s: %+v", name, s)
		}
		if !slices.Equal(s.Command, []string{name}) {
			t.Errorf("%s runs %v", name, s.Command)
		}
	}
	if len(file.Services) != 2 {
		t.Errorf("%d services, want analyzer and agent", len(file.Services))
	}
	for _, p := range file.Services["analyzer"].Ports {
		if !strings.HasPrefix(p, "${SKYDIVE_PUBLISH:-127.0.0.1}:") {
			t.Errorf("the analyzer asks nobody for credentials, and is published as %s", p)
		}
	}
	agent := file.Services["agent"]
	otherwise := regexp.MustCompile(`\$\{\w+:-(.*)\}`) // the value of a variable that is not set
	var environ []string
	for key, value := range agent.Environment {
		environ = append(environ, key+"="+otherwise.ReplaceAllString(value, "$1"))
	}
	cfg, _, err := config.Load(config.Options{Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	// The default of analyzers is not set at all.
	if netns := cfg.Agent.Topology.Netns.RunPath; len(environ) != 2 || netns != "/host/run" || len(cfg.Analyzers) != 1 || cfg.Analyzers[0].String() != "127.0.0.1:8082" {
		t.Errorf("%v make %s and %v", environ, netns, cfg.Analyzers)
	}
	if !slices.Contains(agent.Volumes, "/run/netns:/host/run:ro,rslave") {
		t.Error(agent.Volumes)
	}
	if agent.Network != "host" || agent.Pid != "host" || agent.User != "0:0" || len(agent.Ports) > 0 {
		t.Errorf("%+v", agent)
	}
	// Docker 20.10 refuses those that it does not know, such as BPF.
	if want := []string{"NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"}; !slices.Equal(agent.Add, want) {
		t.Errorf("capabilities %v, want %v", agent.Add, want)
	}
}
