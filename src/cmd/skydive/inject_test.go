package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"skydive/src/netns"
)

// injectPacket runs the command.
func injectPacket(args ...string) result {
	var stdout, stderr bytes.Buffer
	env := &environment{Args: append([]string{"skydive", "inject-packet"}, args...), Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr}
	app := env.app()
	if !slices.ContainsFunc(app.Commands, func(c *cli.Command) bool { return c.Name == "inject-packet" }) {
		command := env.injectPacketCommand()
		finish([]*cli.Command{command}, false)
		app.Commands = append(app.Commands, command)
	}
	code := env.execute(context.Background(), app)
	return result{code, stdout.String(), stderr.String()}
}

func TestInjectPacketRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "no.pcap")
	if err := os.WriteFile(file, []byte("this is no pcap file at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"":                                    "--if-name is required, or --src-mac to find the interface by",
		"--if-name lo --ttl 256":              "--ttl: 256 is too large",
		"--if-name lo --src-port 65536":       "--src-port: 65536 is too large",
		"--if-name lo --mode often":           "given mode is not supported",
		"--if-name lo --src-mac x":            "--src-mac: address x: invalid MAC address",
		"--src-mac 02:00:de:ad:be:ef":         "no interface has the MAC address 02:00:de:ad:be:ef",
		"--if-name skinj-none":                "interface skinj-none: ",
		"--if-name lo --pcap /nonexistent":    "no such file",
		"--if-name lo --src G.V()":            "unknown flag --src",
		"--if-name lo --type icmp4 --count x": "invalid value",
	} {
		if got := injectPacket(strings.Fields(in)...); got.code != 1 || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %+v, want %s", in, got, want)
		}
	}
	if got := injectPacket("--help"); got.code != 0 || !strings.Contains(got.stdout, "--encap-type") || strings.Contains(got.stdout, "--dst value") || !strings.Contains(got.stdout, "CAP_NET_RAW") {
		t.Errorf("%+v", got)
	}
}

// What the other end of a veth pair gets, in a network namespace of their own.
func TestRootInjectPacket(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("SKYDIVE_CI") == "1" {
			t.Fatal("root is needed to make network namespaces")
		}
		t.Skip("root is needed to make network namespaces")
	}
	path := filepath.Join(t.TempDir(), "skinj-cli")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("unshare", "--net="+path, "true").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer unix.Unmount(path, unix.MNT_DETACH)
	for _, command := range []string{"link add va address 02:00:00:00:00:0a type veth peer name vb", "addr add 10.0.0.1/24 dev va", "link set va up", "link set vb up"} {
		if out, err := exec.Command("nsenter", append([]string{"--net=" + path, "ip"}, strings.Fields(command)...)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	ns, err := netns.OpenPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var got, byMAC, large result
	var payloads []string
	if err := netns.Do(ns, func() error {
		peer, err := net.InterfaceByName("vb")
		if err != nil {
			return err
		}
		const ipv4 = unix.ETH_P_IP>>8 | unix.ETH_P_IP<<8&0xffff
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, ipv4)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := errors.Join(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ipv4, Ifindex: peer.Index}), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})); err != nil {
			return err
		}
		buf := make([]byte, 2000)
		// receive returns the payload of one packet, "" when none of ours came within the socket's patience.
		receive := func() string {
			n, err := unix.Read(fd, buf)
			// Ethernet, IPv4 and UDP headers take 42 bytes.
			if err != nil || n < 42 || string(buf[26:34]) != "\x0a\x00\x00\x01\x0a\x00\x00\x02" || string(buf[34:38]) != "\x0f\xa0\x13\x88" {
				return ""
			}
			return string(buf[42:n])
		}
		flags := []string{"--dst-ip", "10.0.0.2", "--dst-mac", "02:00:00:00:00:0b", "--type", "udp4", "--src-port", "4000", "--dst-port", "5000"}
		// Until the kernel has seen the carrier it drops what is sent. It looks in its own time: tests that make and end other namespaces
		// hold the lock that it needs.
		const patience = time.Minute
		deadline := time.Now().Add(patience)
		for receive() != "probe" {
			if time.Now().After(deadline) {
				return errors.New("nothing is received")
			}
			injectPacket(append(flags, "--if-name", "va", "--payload", "probe")...)
		}
		got = injectPacket(append(flags, "--if-name", "va", "--payload", "x", "--count", "2", "--inc-payload=3")...)
		byMAC = injectPacket(append(flags, "--src-mac", "02:00:00:00:00:0a", "--payload", "last")...)
		large = injectPacket(append(flags, "--if-name", "va", "--payload", strings.Repeat("x", 1500))...)
		// That a read gives nothing means little: a signal ends it, and so does a peer that is late.
		for text := ""; text != "last"; {
			if text = receive(); text != "" && text != "probe" {
				payloads = append(payloads, text)
			}
			if time.Now().After(deadline.Add(patience)) {
				return fmt.Errorf("%q are received, not the last packet", payloads)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got.code != 0 || got.stdout != "" || got.stderr != "2 packets sent\n" {
		t.Errorf("%+v", got)
	}
	if byMAC.code != 0 || large.code != 1 || !strings.Contains(large.stderr, "does not fit the interface") || !strings.Contains(large.stderr, "(0 packets were sent)") {
		t.Errorf("%+v %+v", byMAC, large)
	}
	if len(payloads) != 3 || payloads[0] != "x" || len(payloads[1]) != 4 || payloads[2] != "last" {
		t.Errorf("received %q", payloads)
	}
}
