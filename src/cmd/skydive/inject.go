package main

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/urfave/cli/v2"

	"skydive/src/inject"
	"skydive/src/resource"
)

func (env *environment) injectPacketCommand() *cli.Command {
	flags := []cli.Flag{
		textFlag("if-name", "`INTERFACE` to send from (default: the one that has the address --src-mac)"),
		&cli.StringFlag{Name: "encap-type", Value: "ether", Usage: "what the interface takes if the kernel does not tell: ether"},
	}
	for _, f := range injectionFlags() {
		if name := f.Names()[0]; name != "src" && name != "dst" { // nodes are known to analyzers only
			flags = append(flags, f)
		}
	}
	return &cli.Command{
		Name:  "inject-packet",
		Usage: "send packets from an interface of this host, without agent and analyzer",
		Description: "Source addresses left open are those of the interface. The packets go out as they are asked for: nothing is looked up, so\n" +
			"the destination MAC address is that of the host or, beyond the network, of the gateway.\n\n" +
			"   skydive inject-packet --if-name eth0 --dst-ip 10.0.0.2 --dst-mac 02:00:00:00:00:02 --type udp4 --dst-port 53\n" +
			"   skydive inject-packet --if-name eth0 --pcap trace.pcap\n\n" +
			"It needs CAP_NET_RAW. \"skydive client inject-packet\" asks an analyzer to have agents send.",
		Flags:  flags,
		Action: env.injectPacket,
	}
}

func (env *environment) injectPacket(c *cli.Context) error {
	r, err := env.injectionRequest(c)
	if err != nil {
		return err
	}
	name := c.String("if-name")
	if name == "" {
		if r.SrcMAC == nil {
			return errors.New("--if-name is required, or --src-mac to find the interface by")
		}
		if name, err = inject.ByMAC(r.SrcMAC); err != nil {
			return err
		}
	}
	if len(r.Pcap) == 0 {
		if err := addressesOf(name, &r); err != nil {
			return err
		}
	}
	told := uint64(0)
	sent, err := inject.Once(c.Context, inject.Node{Name: name, EncapType: c.String("encap-type")}, r, func(n uint64) {
		if n != told {
			told = n
			fmt.Fprintf(env.Stderr, "%d packets sent\n", n)
		}
	})
	if err != nil {
		return fmt.Errorf("%w (%d packets were sent)", err, sent)
	}
	return nil
}

// injectionRequest reads the flags that injections of analyzers have, too.
func (env *environment) injectionRequest(c *cli.Context) (r resource.InjectionRequest, err error) {
	for flag, bits := range map[string]int{"src-port": 16, "dst-port": 16, "id": 16, "ttl": 8} {
		if c.Uint(flag) >= 1<<bits {
			return r, fmt.Errorf("--%s: %d is too large", flag, c.Uint(flag))
		}
	}
	switch c.String("mode") {
	case "", "unique", "random":
	default:
		return r, errors.New("given mode is not supported")
	}
	r = resource.InjectionRequest{
		SrcIP: c.String("src-ip"), DstIP: c.String("dst-ip"), SrcPort: uint16(c.Uint("src-port")), DstPort: uint16(c.Uint("dst-port")),
		Type: c.String("type"), Count: c.Uint64("count"), ICMPID: uint16(c.Uint("id")), Interval: c.Uint64("interval"), Mode: c.String("mode"),
		IncrementPayload: c.Int64("inc-payload"), Payload: c.String("payload"), TTL: uint8(c.Uint("ttl")),
	}
	for flag, to := range map[string]*net.HardwareAddr{"src-mac": &r.SrcMAC, "dst-mac": &r.DstMAC} {
		if text := c.String(flag); text != "" {
			if *to, err = net.ParseMAC(text); err != nil {
				return r, fmt.Errorf("--%s: %w", flag, err)
			}
		}
	}
	if file := c.String("pcap"); file != "" {
		if r.Pcap, err = env.readInput(file); err != nil {
			return r, err
		}
		if !c.IsSet("count") {
			r.Count = 0 // the whole file
		}
	}
	return r, nil
}

// addressesOf fills in the source addresses that were left open.
func addressesOf(name string, r *resource.InjectionRequest) error {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if r.SrcMAC == nil {
		if r.SrcMAC = i.HardwareAddr; len(r.SrcMAC) == 0 && i.Flags&net.FlagLoopback != 0 {
			r.SrcMAC = make(net.HardwareAddr, 6)
		}
	}
	if r.DstMAC == nil && i.Flags&net.FlagLoopback != 0 {
		r.DstMAC = make(net.HardwareAddr, 6)
	}
	if r.SrcIP != "" {
		return nil
	}
	all, err := i.Addrs()
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", name, err)
	}
	spare := ""
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok || (n.IP.To4() == nil) != strings.HasSuffix(r.Type, "6") {
			continue
		}
		if n.IP.IsLinkLocalUnicast() {
			spare = n.IP.String()
			continue
		}
		r.SrcIP = n.IP.String()
		return nil
	}
	if r.SrcIP = spare; spare == "" {
		return fmt.Errorf("interface %s has no address for packets of type %s: --src-ip is needed", name, r.Type)
	}
	return nil
}
