package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// publisher is a connection to a WebSocket endpoint, by which messages are sent or counted. It is a WebSocket client of RFC 6455 made to cost nothing, since it shares the machine with
// what it measures: messages are sent as they are, under a mask of zeros.
type publisher struct {
	conn net.Conn

	mu  sync.Mutex // a frame is written whole
	out *bufio.Writer

	received atomic.Int64 // messages
}

// publish connects as a publisher of the given name, whose elements go when it leaves.
func (s *service) publish(ctx context.Context, name string) (*publisher, error) {
	return s.socket(ctx, "/ws/publisher", "bench", name)
}

// socket connects to an endpoint.
func (s *service) socket(ctx context.Context, path, clientType, name string) (*publisher, error) {
	conn, err := s.host.Dial(ctx, "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: c2t5ZGl2ZS1iZW5jaC4uLg==\r\nX-Host-ID: %s\r\nX-Client-Type: %s\r\nX-Persistence-Policy: DeleteOnDisconnect\r\n\r\n", path, s.addr, name, clientType)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err == nil && res.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 500))
		err = fmt.Errorf("connect to %s: %s: %s", path, res.Status, text)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	p := &publisher{conn: conn, out: bufio.NewWriterSize(conn, 1<<16)}
	go p.answer(in) // until the connection is closed
	return p, nil
}

func (p *publisher) close() { p.conn.Close() }

const text, binaryData, ping, pong = 1, 2, 9, 10 // opcodes, RFC 6455 §11.8

// send sends text messages, a frame each.
func (p *publisher) send(messages ...[]byte) error { return p.sendAs(text, messages...) }

func (p *publisher) sendAs(opcode byte, messages ...[]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range messages {
		if err := p.frame(opcode, m); err != nil {
			return err
		}
	}
	return p.out.Flush()
}

func (p *publisher) frame(opcode byte, payload []byte) error {
	const final, masked = 0x80, 0x80
	head := []byte{final | opcode}
	switch n := len(payload); {
	case n < 126:
		head = append(head, masked|byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, masked|126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, masked|127), uint64(n))
	}
	p.out.Write(append(head, 0, 0, 0, 0)) // bufio keeps the error
	_, err := p.out.Write(payload)
	return err
}

// answer reads what the server sends and answers its pings.
func (p *publisher) answer(in *bufio.Reader) {
	defer p.conn.Close()
	for {
		var head [2]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return
		}
		n := uint64(head[1])
		for size := map[uint64]int{126: 2, 127: 8}[n]; size > 0; size = 0 {
			var long [8]byte
			if _, err := io.ReadFull(in, long[8-size:]); err != nil {
				return
			}
			n = binary.BigEndian.Uint64(long[:])
		}
		if head[0]&0x0f != ping {
			if _, err := in.Discard(int(n)); err != nil {
				return
			}
			if head[0]&0x80 != 0 { // the last frame of a message
				p.received.Add(1)
			}
			continue
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(in, payload); err != nil {
			return
		}
		p.mu.Lock()
		p.frame(pong, payload)
		err := p.out.Flush()
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}
