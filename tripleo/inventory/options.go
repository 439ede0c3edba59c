package inventory

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Option is one setting: what it is called on the command line, in a configuration file and in the environment.
type Option struct {
	Names   []string // long options, the first is shown
	Metavar string
	Env     []string // the first that is not empty counts
	Default string
	Usage   string
}

// Key is what the option is called in configuration files, which know every name of it.
func (o Option) Key() string { return key(o.Names[0]) }

func key(name string) string { return strings.ReplaceAll(name, "-", "_") }

// All is every option that has one value, in the order of the usage.
func All() []Option {
	return []Option{
		{Names: []string{"agent-extra-file"}, Metavar: "AGENT_EXTRA_FILE", Usage: "extra vars agent file: YAML, beats --extra-file"},
		{Names: []string{"analyzer-extra-file"}, Metavar: "ANALYZER_EXTRA_FILE", Usage: "extra vars analyzer file: YAML, beats --extra-file"},
		{Names: []string{"ansible-ssh-user"}, Metavar: "ANSIBLE_SSH_USER", Env: []string{"ANSIBLE_SSH_USER"}, Default: "heat-admin",
			Usage: "user of the overcloud's hosts"},
		{Names: []string{"os-auth-token", "auth-token"}, Metavar: "AUTH_TOKEN", Env: []string{"OS_AUTH_TOKEN"}, Usage: "token to use instead of a password"},
		{Names: []string{"auth-url"}, Metavar: "AUTH_URL", Env: []string{"OS_AUTH_URL"}, Usage: "Keystone of the undercloud"},
		{Names: []string{"cacert"}, Metavar: "CACERT", Env: []string{"OS_CACERT"}, Usage: "PEM file of the authority of the undercloud's certificates"},
		{Names: []string{"container-params-file"}, Metavar: "CONTAINER_PARAMS_FILE",
			Usage: "container image preparation file: YAML, tells the namespace of the images (else rhosp15) and their tag (else latest)"},
		{Names: []string{"extra-file"}, Metavar: "EXTRA_FILE", Usage: "extra vars file: YAML, beats what is found out"},
		{Names: []string{"inventory-file"}, Metavar: "INVENTORY_FILE", Default: "skydive-inventory.yaml", Usage: "file to be written, readable for its owner only"},
		{Names: []string{"password"}, Metavar: "PASSWORD", Env: []string{"OS_PASSWORD"}, Usage: "everybody on this machine sees it here: better left in the environment"},
		{Names: []string{"plan"}, Metavar: "PLAN", Env: []string{"TRIPLEO_PLAN_NAME"}, Default: "overcloud", Usage: "Heat stack of the overcloud"},
		{Names: []string{"project-name"}, Metavar: "PROJECT_NAME", Env: []string{"OS_PROJECT_NAME", "OS_TENANT_NAME"}, Usage: "project of the user"},
		{Names: []string{"timeout"}, Metavar: "TIMEOUT", Default: "60", Usage: "seconds the undercloud has to answer everything"},
		{Names: []string{"undercloud-params-file"}, Metavar: "UNDERCLOUD_PARAMS_FILE",
			Usage: "undercloud params file: YAML, tells the local registry, which the images are taken from"},
		{Names: []string{"username"}, Metavar: "USERNAME", Env: []string{"OS_USERNAME"}, Usage: "user of the undercloud"},
	}
}

// Options is what Generate goes by.
type Options struct {
	AuthURL, AuthToken, Username, Password, ProjectName, CACert             string
	UserDomain, ProjectDomain, Region, Interface                            string
	Plan, SSHUser                                                           string
	UndercloudParams, ContainerParams, ExtraFile, AnalyzerExtra, AgentExtra string
	InventoryFile                                                           string
	Timeout                                                                 time.Duration
}

// ErrNoAuthURL has its own words: scripts look for them.
type ErrNoAuthURL struct{}

func (ErrNoAuthURL) Error() string {
	return "auth-url not defined and OS_AUTH_URL environment variable missing, unable to proceed."
}

// ErrTimeout is a value of --timeout that is none.
type ErrTimeout struct{ Value string }

func (e ErrTimeout) Error() string {
	return fmt.Sprintf("argument --timeout: invalid Integer value: '%s' (want seconds, from 1 on)", e.Value)
}

// Resolve decides what counts: the command line (by the first name of an option), then configuration files (by any, the last file first),
// then the environment, then the default. Empty values count where somebody wrote them.
func Resolve(arguments map[string]string, files []Source, getenv func(string) string) (Options, error) {
	settings := map[string]string{}
	for _, option := range All() {
		settings[option.Key()] = option.Default
		for i := len(option.Env) - 1; i >= 0; i-- {
			if value := getenv(option.Env[i]); value != "" {
				settings[option.Key()] = value
			}
		}
	}
	for _, file := range files {
		found, err := file.read()
		if err != nil {
			return Options{}, err
		}
		for _, option := range All() {
			for _, name := range option.Names {
				if value, ok := found[key(name)]; ok {
					settings[option.Key()] = value
				}
			}
		}
	}
	for name, value := range arguments {
		settings[key(name)] = value
	}
	seconds, err := strconv.Atoi(strings.TrimSpace(settings["timeout"]))
	if err != nil || seconds < 1 || seconds > 1<<31 {
		return Options{}, ErrTimeout{settings["timeout"]}
	}
	// What else a stackrc says; no options of their own.
	or := func(fallback string, names ...string) string {
		for _, name := range names {
			if value := getenv(name); value != "" {
				return value
			}
		}
		return fallback
	}
	options := Options{
		AuthURL: settings["auth_url"], AuthToken: settings["os_auth_token"], Username: settings["username"], Password: settings["password"],
		ProjectName: settings["project_name"], CACert: settings["cacert"],
		UserDomain:    or("Default", "OS_USER_DOMAIN_NAME", "OS_DOMAIN_NAME"),
		ProjectDomain: or("Default", "OS_PROJECT_DOMAIN_NAME", "OS_DOMAIN_NAME"),
		Region:        or("", "OS_REGION_NAME"),
		// Older files write publicURL.
		Interface: strings.TrimSuffix(or("public", "OS_INTERFACE", "OS_ENDPOINT_TYPE"), "URL"),
		Plan:      settings["plan"], SSHUser: settings["ansible_ssh_user"],
		UndercloudParams: settings["undercloud_params_file"], ContainerParams: settings["container_params_file"],
		ExtraFile: settings["extra_file"], AnalyzerExtra: settings["analyzer_extra_file"], AgentExtra: settings["agent_extra_file"],
		InventoryFile: settings["inventory_file"],
		Timeout:       time.Duration(seconds) * time.Second,
	}
	if options.AuthURL == "" {
		return Options{}, ErrNoAuthURL{}
	}
	return options, nil
}
