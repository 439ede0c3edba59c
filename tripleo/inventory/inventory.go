// Package inventory makes an Ansible inventory for Skydive out of what a TripleO undercloud tells about its overcloud: Heat's stack, or
// Nova's servers, and files of the operator.
//
// It evaluates nothing that it reads, never writes an inventory without hosts, and repeats no password in a message.
package inventory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gopkg.in/yaml.v3"
)

// Generate asks the undercloud and returns the inventory, a YAML document. warn is told what is missing in it.
func Generate(ctx context.Context, options Options, warn func(string, ...any)) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, options.Timeout)
	defer cancel()
	// First what needs nobody's answer.
	registry, err := localRegistry(options.UndercloudParams, warn)
	if err != nil {
		return nil, err
	}
	namespace, tag, err := imageParameters(options.ContainerParams, warn)
	if err != nil {
		return nil, err
	}
	extra := make([]mapping, 3)
	for i, path := range []string{options.ExtraFile, options.AnalyzerExtra, options.AgentExtra} {
		if path == "" {
			continue
		}
		if extra[i], err = readYAML(path); err != nil {
			return nil, err
		}
	}
	client, err := login(ctx, options, warn)
	if err != nil {
		return nil, err
	}
	found, err := client.ask()
	if err != nil {
		return nil, err
	}
	region := found.region
	if region == "" {
		region = "regionOne" // what TripleO calls it unless told otherwise
	}
	common := mapping{
		"os_auth_url":                     word(found.keystoneURL),
		"os_password":                     word(found.adminPassword),
		"os_tenant_name":                  word("admin"),
		"os_username":                     word("admin"),
		"skydive_agent_docker_command":    word("/usr/bin/skydive agent --conf /etc/skydive.yml"),
		"skydive_agent_docker_image":      word(namespace + "/openstack-skydive-agent"),
		"skydive_analyzer_docker_command": word("/usr/bin/skydive analyzer --conf /etc/skydive.yml"),
		"skydive_analyzer_docker_image":   word(namespace + "/openstack-skydive-analyzer"),
		"skydive_auth_type":               word("keystone"),
		"skydive_deployment_mode":         word("container"),
		"skydive_docker_image_tag":        word(tag),
		"skydive_docker_registry":         word(registry),
		"skydive_flow_protocol":           word("websocket"),
		"skydive_iptables_rules":          boolean(true),
		"skydive_os_auth_url":             word(found.internalURL),
		"skydive_os_service_region_name":  word(region),
		"skydive_topology_probes":         words("neutron", "ovsdb", "docker"),
	}.with(extra[0])
	for _, name := range []string{"os_auth_url", "os_password", "skydive_os_auth_url"} {
		if scalar(common[name]) == "" {
			warn("%s is empty: say it in an --extra-file, else the playbook falls back on its environment, which may be that of the undercloud", name)
		}
	}
	document := mapping{
		"agents":    group(found.hosts, found.hosts.agents, options.SSHUser, false, common.with(extra[2])),
		"analyzers": group(found.hosts, found.hosts.analyzers, options.SSHUser, true, common.with(extra[1])),
	}
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(document.node()), encoder.Close()); err != nil {
		return nil, fmt.Errorf("write YAML: %w", err)
	}
	return text.Bytes(), nil
}

func group(h *hosts, members map[string]bool, user string, listens bool, vars mapping) *yaml.Node {
	entries := mapping{}
	for name := range members {
		host := mapping{"ansible_become": boolean(true), "ansible_host": word(h.address[name]), "ansible_user": word(user)}
		if listens {
			host["skydive_listen_ip"] = word(h.address[name])
		}
		entries[name] = host.node()
	}
	return mapping{"hosts": entries.node(), "vars": vars.node()}.node()
}

// localRegistry is the first address that the undercloud's parameters tell of its registry.
func localRegistry(path string, warn func(string, ...any)) (string, error) {
	defaults, err := parameterDefaults(path, warn)
	if err != nil || defaults == nil {
		return "", err
	}
	value := defaults["DockerInsecureRegistryAddress"]
	registry := scalar(value)
	if addresses := items(value); len(addresses) > 0 {
		registry = scalar(addresses[0])
	}
	registry = strings.TrimRight(strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(registry), "https://"), "http://"), "/")
	if registry == "" {
		warn("%s: parameter_defaults has no DockerInsecureRegistryAddress; skydive_docker_registry is left empty", path)
	}
	return registry, nil
}

// imageParameters is where the overcloud's images are: the namespace without its registry, and the tag.
func imageParameters(path string, warn func(string, ...any)) (namespace, tag string, err error) {
	namespace, tag = "rhosp15", "latest"
	defaults, err := parameterDefaults(path, warn)
	if err != nil || defaults == nil {
		return namespace, tag, err
	}
	prepare := items(defaults["ContainerImagePrepare"])
	if len(prepare) == 0 {
		warn("%s: parameter_defaults has no ContainerImagePrepare; namespace %s and tag %s are taken", path, namespace, tag)
		return namespace, tag, nil
	}
	set := entries(entries(prepare[len(prepare)-1])["set"])
	if value := strings.Trim(withoutRegistry(scalar(set["namespace"])), "/ "); value != "" {
		namespace = value
	} else {
		warn("%s: the last ContainerImagePrepare has no set.namespace; %s is taken", path, namespace)
	}
	if value := scalar(set["tag"]); value != "" {
		tag = value
	}
	return namespace, tag, nil
}

// withoutRegistry leaves out the first part of a name if that is a host, as container engines tell it.
func withoutRegistry(name string) string {
	name = strings.Trim(strings.TrimSpace(name), "/")
	first, rest, found := strings.Cut(name, "/")
	if found && (strings.ContainsAny(first, ".:") || first == "localhost") {
		return rest
	}
	return name
}

func parameterDefaults(path string, warn func(string, ...any)) (mapping, error) {
	if path == "" {
		return nil, nil
	}
	file, err := readYAML(path)
	if err != nil {
		return nil, err
	}
	defaults, ok := file["parameter_defaults"]
	if !ok || defaults.Kind != yaml.MappingNode {
		warn("%s has no parameter_defaults", path)
		return nil, nil
	}
	return entries(defaults), nil
}

// Write puts the document in place of the file at once, readable for its owner only: it holds the overcloud's password. What is no plain
// file (/dev/stdout) is written to.
func Write(path string, document []byte) (err error) {
	failed := func(err error) error { return fmt.Errorf("inventory file %s: %w", path, reason(err)) }
	if path == "" {
		return errors.New("no inventory file: --inventory-file is empty")
	}
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return failed(err)
	case info.IsDir():
		return fmt.Errorf("inventory file %s: is a directory", path)
	case !info.Mode().IsRegular():
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return failed(err)
		}
		_, err = file.Write(document)
		if err := errors.Join(err, file.Close()); err != nil {
			return failed(err)
		}
		return nil
	}
	// A link stays one.
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".") // mode 0600
	if err != nil {
		return failed(err)
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	_, err = file.Write(document)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return failed(err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return failed(err)
	}
	return nil
}
