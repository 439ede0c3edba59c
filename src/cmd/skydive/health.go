package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"skydive/src/config"
)

// healthCommand is what the health check of a container runs: the image holds no other program.
func (env *environment) healthCommand() *cli.Command {
	return &cli.Command{
		Name:      "health",
		Usage:     "ask whether the services here are well (exit code 0) or not (1)",
		ArgsUsage: "[analyzer|agent]",
		Description: "In a container it asks the service that the container runs, where its command line and configuration say that it\n" +
			"listens. Elsewhere it asks where the configuration says that analyzer and agent listen, or the one that is named;\n" +
			"one that does not run there is left out as long as the other does.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "address", Usage: "`HOST:PORT` to ask instead"},
			&cli.DurationFlag{Name: "timeout", Usage: "`TIME` until no answer is a bad one", Value: 2 * time.Second},
			&cli.BoolFlag{Name: "ready", Usage: "ask whether they can be used: an agent is ready when it is connected to an analyzer"},
		},
		Action: func(c *cli.Context) error {
			addresses, all, cfg, err := env.healthAddresses(c)
			if err != nil {
				return err
			}
			secure, err := ownTLS(cfg)
			if err != nil {
				return err
			}
			path := "/healthz"
			if c.Bool("ready") {
				path = "/readyz"
			}
			ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
			defer cancel()
			return env.askHealth(ctx, addresses, all, path, secure)
		},
	}
}

// askHealth wants all addresses to answer, or at least one, and all that answer to be well.
func (env *environment) askHealth(ctx context.Context, addresses []config.Address, all bool, path string, secure *tls.Config) error {
	var asked []string
	scheme := "http://"
	if secure != nil {
		scheme = "https://"
	}
	for _, a := range addresses {
		err := askOne(ctx, scheme+reachable(a).String()+path, secure)
		refused := errors.Is(err, syscall.ECONNREFUSED)
		switch {
		case refused && all:
			return fmt.Errorf("nothing listens on %s", a)
		case refused:
		case err != nil:
			return fmt.Errorf("%s: %w", a, err)
		default:
			asked = append(asked, a.String())
		}
	}
	if len(asked) == 0 {
		return fmt.Errorf("nothing listens on %s nor on %s", addresses[0], addresses[1])
	}
	fmt.Fprintln(env.Stdout, "ok: "+strings.Join(asked, ", "))
	return nil
}

// askOne asks one service, itself and nothing else: no proxy, no other host that an answer points to.
func askOne(ctx context.Context, url string, secure *tls.Config) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true, TLSClientConfig: secure}).RoundTrip(r)
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 200))
	if err != nil || resp.StatusCode == http.StatusOK {
		return err
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return fmt.Errorf("%s: %s", resp.Status, strings.ToValidUTF8(line, "?"))
}

// ownTLS is how a service of this configuration is asked from its own host, nil without TLS. Who answers there need not prove it: no
// secret is sent, and the certificate may be for names that this host is reached by from elsewhere.
func ownTLS(cfg *config.Config) (*tls.Config, error) {
	if cfg == nil || cfg.TLS.ServerCert == "" {
		return nil, nil
	}
	secure := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
	if cfg.TLS.RequireClientCert && cfg.TLS.ClientCert != "" {
		pair, err := tls.LoadX509KeyPair(cfg.TLS.ClientCert, cfg.TLS.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("certificate to show (tls.client_cert, tls.client_key): %w", err)
		}
		secure.Certificates = []tls.Certificate{pair}
	}
	return secure, nil
}

// healthAddresses finds whom to ask, whether all of them must answer, and the configuration of those services; nil when that cannot be
// read and need not be.
func (env *environment) healthAddresses(c *cli.Context) (_ []config.Address, all bool, _ *config.Config, _ error) {
	if c.NArg() > 1 {
		return nil, false, nil, fmt.Errorf("unexpected argument %q; see %s --help", c.Args().Get(1), c.Command.HelpName)
	}
	service := c.Args().First()
	switch service {
	case "", "analyzer", "agent":
	default:
		return nil, false, nil, fmt.Errorf("%q is not a service: want analyzer or agent", service)
	}
	if c.IsSet("address") {
		a, err := config.ParseAddress(c.String("address"))
		cfg, _, failed := config.Load(env.configOptions(c))
		if failed != nil && len(c.StringSlice("conf")) == 0 {
			cfg, failed = nil, nil
		}
		return []config.Address{a}, true, cfg, errors.Join(err, failed)
	}
	o := env.configOptions(c)
	var running *commandLine
	if env.getenv("container") != "" { // as systemd, podman and our image have it
		running = serviceBeside("/proc", os.Getpid())
	}
	if running != nil && (service == "" || running.service == service || running.service == "allinone") {
		// It was started with this environment, so that only its command line is to be added.
		if len(o.Files) == 0 {
			o.Files = running.files
		}
		if running.listen != "" {
			o.Flags[running.service+".listen"] = running.listen
		}
		service = cmp.Or(service, running.service)
	}
	cfg, _, err := config.Load(o)
	if err != nil {
		return nil, false, nil, err
	}
	switch service {
	case "analyzer":
		return []config.Address{cfg.Analyzer.Listen}, true, cfg, nil
	case "agent":
		return []config.Address{cfg.Agent.Listen}, true, cfg, nil
	}
	return []config.Address{cfg.Analyzer.Listen, cfg.Agent.Listen}, service == "allinone", cfg, nil
}

// commandLine is what the command line of a service tells about where it listens.
type commandLine struct {
	service string // "analyzer", "agent" or "allinone"
	files   []string
	listen  string
}

// serviceBeside finds the service that runs in the same mount namespace, which is to say in the same container, even where the
// container sees the processes of the host. Nil: none, or more than one.
func serviceBeside(proc string, self int) (found *commandLine) {
	own, err := os.Readlink(filepath.Join(proc, strconv.Itoa(self), "ns", "mnt"))
	if err != nil {
		return nil
	}
	processes, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, dir := range processes {
		if pid := filepath.Base(dir); pid == strconv.Itoa(self) {
			continue
		}
		if theirs, err := os.Readlink(filepath.Join(dir, "ns", "mnt")); err != nil || theirs != own {
			continue
		}
		text, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		line := parseCommandLine(strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00"))
		switch {
		case line == nil:
		case found != nil:
			return nil
		default:
			found = line
		}
	}
	return found
}

// parseCommandLine returns nil when it is not that of a service.
func parseCommandLine(args []string) *commandLine {
	if name, _, _ := strings.Cut(filepath.Base(args[0]), "-"); name != "skydive" {
		return nil
	}
	path, _, _, err := parseArgs((&environment{Args: args}).app(), args[1:])
	if err != nil || len(path) < 2 {
		return nil
	}
	line := &commandLine{service: path[1].name}
	switch line.service {
	case "analyzer", "agent", "allinone":
	default:
		return nil
	}
	for _, level := range path[:2] {
		for _, arg := range level.args {
			name, value, _ := strings.Cut(arg, "=")
			switch name {
			case "--conf":
				line.files = append(line.files, value)
			case "--listen":
				line.listen = value
			}
		}
	}
	return line
}
