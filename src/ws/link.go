package ws

import (
	"bufio"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

// Frame opcodes of RFC 6455 §5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
)

// link is the byte stream below a connection. The WebSocket library does the
// handshake, reads, and answers pings and close frames through it; data frames
// are written beside the library, many per system call, because one write per
// message is four times too slow for a thousand subscribers.
// Every Write is one or more whole frames, so the two cannot tear each other's.
type link struct {
	rwc io.ReadWriteCloser

	mu     sync.Mutex  // one Write at a time
	closed atomic.Bool // a close frame was written: nothing may follow it (RFC 6455 §5.5.1)

	received atomic.Int64 // bytes read so far
	reading  atomic.Bool  // someone waits for the peer's bytes
}

func (l *link) Read(p []byte) (int, error) {
	l.reading.Store(true)
	n, err := l.rwc.Read(p)
	l.reading.Store(false)
	l.received.Add(int64(n))
	return n, err
}

func (l *link) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() || len(p) == 0 {
		return len(p), nil
	}
	if p[0]&0x0f == opClose { // alone in its Write, whoever sends it
		l.closed.Store(true)
	}
	return l.rwc.Write(p)
}

func (l *link) Close() error { return l.rwc.Close() }

// hijacker hands the library a connection whose bytes pass through link.
type hijacker struct {
	http.ResponseWriter
	link *link
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.link.rwc = conn
	linked := &linkedConn{Conn: conn, link: h.link}
	rw.Writer.Reset(linked)
	return linked, rw, nil
}

type linkedConn struct {
	net.Conn
	link *link
}

func (c *linkedConn) Read(p []byte) (int, error)  { return c.link.Read(p) }
func (c *linkedConn) Write(p []byte) (int, error) { return c.link.Write(p) }

// roundTripper does the same for a dialled connection, behind TLS and proxies.
type roundTripper struct {
	http.RoundTripper
	link *link
}

func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if rwc, ok := resp.Body.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		t.link.rwc = rwc
		resp.Body = t.link
	}
	return resp, nil
}

// maxHeader is the longest frame header: 2 bytes, 8 of length, 4 of mask.
const maxHeader = 14

// appendFrame appends one frame. Clients must mask (RFC 6455 §5.3), servers must not.
func appendFrame(dst []byte, opcode byte, fin, masked bool, payload []byte) []byte {
	if fin {
		opcode |= 0x80
	}
	var mask byte
	if masked {
		mask = 0x80
	}
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, opcode, mask|byte(n))
	case n <= 0xffff:
		dst = append(dst, opcode, mask|126, byte(n>>8), byte(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, opcode, mask|127), uint64(n))
	}
	if !masked {
		return append(dst, payload...)
	}
	key := uint64(rand.Uint32())
	dst = binary.LittleEndian.AppendUint32(dst, uint32(key))
	start := len(dst)
	dst = append(dst, payload...)
	p := dst[start:]
	key |= key << 32
	for ; len(p) >= 8; p = p[8:] {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^key)
	}
	for i := range p {
		p[i] ^= byte(key >> (8 * i))
	}
	return dst
}

// closePayload is code and reason, shortened to what a control frame can carry.
func closePayload(code Status, reason string) []byte {
	reason = strings.ToValidUTF8(reason, "?")
	if len(reason) > 123 {
		reason = strings.ToValidUTF8(reason[:123], "")
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...)
}
