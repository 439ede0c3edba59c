// Package bpf compiles filter expressions of pcap-filter(7), the language of tcpdump, to classic BPF programs, and runs them.
//
// It is written in Go so that binaries stay static on every architecture and so that a wrong expression is answered with the place
// of the fault. Verdicts are those of libpcap. Two differences are meant: all operands of an arithmetic expression must be in the
// packet, where libpcap checks the protocol of the leftmost one only; and a packet that ends within a header may be accepted for
// another alternative that was tested before the end, which libpcap does in some expressions only.
//
// It looks nothing up: hosts and networks are numeric, ports and protocols are numbers or names of a built-in table. It refuses,
// naming the word: what asks the machine (gateway, ifindex, inbound, outbound, ip broadcast), what no Ethernet or IP capture has
// (wlan, llc, atm, ...), and protochain, which is a loop.
package bpf

import (
	"fmt"
	"strings"
)

// LinkType is the kind of frame that a program gets, as numbered in pcap files.
type LinkType uint32

// The link types that can be filtered. RawIP is IPv4 or IPv6 without a link header.
const (
	Ethernet LinkType = 1
	RawIP    LinkType = 101
	LinuxSLL LinkType = 113
	IPv4     LinkType = 228
	IPv6     LinkType = 229
)

const (
	maxText         = 1 << 16 // bytes of an expression
	maxNesting      = 500     // of parentheses and negations
	maxInstructions = 4096    // what the kernel takes
)

// Instruction is one instruction of a classic BPF program, in the form of struct sock_filter.
type Instruction struct {
	Op     uint16
	Jt, Jf uint8
	K      uint32
}

// SyntaxError tells what is wrong with an expression, and where.
type SyntaxError struct {
	Offset int    // in bytes
	Text   string // what is wrong
	Want   string // what would be right; may be empty
}

func (e *SyntaxError) Error() string {
	if e.Want == "" {
		return fmt.Sprintf("%s (at offset %d)", e.Text, e.Offset)
	}
	return fmt.Sprintf("%s (at offset %d, want %s)", e.Text, e.Offset, e.Want)
}

// Filter is a compiled expression. It does not change and may be used by several goroutines.
type Filter struct {
	text   string
	frame  []Instruction // for a whole frame
	socket []Instruction // for what a packet socket sees
}

// Compile compiles an expression for frames of the link type; an empty one accepts everything. The program returns snapLen for a
// packet that matches and 0 for others. Every fault of the expression is a *SyntaxError.
func Compile(expr string, link LinkType, snapLen int) (*Filter, error) {
	switch link {
	case Ethernet, RawIP, LinuxSLL, IPv4, IPv6:
	default:
		return nil, fmt.Errorf("link type %d cannot be filtered", link)
	}
	if snapLen <= 0 || snapLen > 1<<30 {
		return nil, fmt.Errorf("snap length %d is not within 1 to %d", snapLen, 1<<30)
	}
	f := &Filter{text: expr}
	b := newBuilder()
	c, vlan, err := parse(b, expr, link, false)
	if err != nil {
		return nil, err
	}
	if f.frame, err = generate(b, c, uint32(snapLen)); err != nil {
		return nil, err
	}
	if f.socket = f.frame; !vlan {
		return f, nil
	}
	t, _, err := parse(b, expr, link, true)
	if err != nil {
		return nil, err
	}
	tag := b.not(b.compare(jmpEq, b.load(nil, vlanTagPresent, sizeW), b.constant(0)))
	if f.socket, err = generate(b, b.or(b.and(tag, t), b.and(b.not(tag), c)), uint32(snapLen)); err != nil {
		return nil, err
	}
	return f, nil
}

// Instructions returns the program for SO_ATTACH_FILTER of a packet socket. It differs from what Match runs when the expression has
// "vlan": the kernel takes the outermost tag out of the frame, so that the program asks for it.
func (f *Filter) Instructions() []Instruction { return f.socket }

// Match tells whether a frame matches, of which data was captured and length is the original length.
func (f *Filter) Match(data []byte, length int) bool { return run(f.frame, data, uint32(length)) != 0 }

// String returns the expression.
func (f *Filter) String() string { return f.text }

// listing prints a program as tcpdump -ddd does.
func listing(prog []Instruction) string {
	var b strings.Builder
	fmt.Fprintln(&b, len(prog))
	for _, i := range prog {
		fmt.Fprintln(&b, i.Op, i.Jt, i.Jf, i.K)
	}
	return b.String()
}
