// Package ws is the WebSocket transport (RFC 6455) between agents, analyzers and
// their subscribers and publishers: handshake, liveness, bounded send queues,
// reconnection. It moves bytes and knows nothing of what they mean.
//
// It refuses to let one peer hurt another: Send never blocks, a peer that does
// not keep up is disconnected rather than waited for, a peer that floods is
// slowed by TCP, and a panic while handling a message ends only that connection.
package ws

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"time"
)

// Config holds the limits of a connection. A zero field stands for its default.
type Config struct {
	PingDelay    time.Duration // between two pings, the first right after the handshake; 2 s. Below 0: no pings, and no PongTimeout
	PongTimeout  time.Duration // a peer silent for PingDelay+PongTimeout is dropped; 5 s
	WriteTimeout time.Duration // for one write to the socket (at most 64 KiB); 10 s
	CloseTimeout time.Duration // how long to wait for the peer's close frame; 1 s
	QueueSize    int           // messages waiting to be written; 10000
	QueueBytes   int           // bytes waiting to be written, 128 MiB; an empty queue takes any message
	MaxMessage   int64         // bytes of one received message; 512 MiB
}

func (c Config) withDefaults() Config {
	c.PingDelay = cmp.Or(c.PingDelay, 2*time.Second)
	c.PongTimeout = cmp.Or(c.PongTimeout, 5*time.Second)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, 10*time.Second)
	c.CloseTimeout = cmp.Or(c.CloseTimeout, time.Second)
	c.QueueSize = cmp.Or(c.QueueSize, 10000)
	c.QueueBytes = cmp.Or(c.QueueBytes, 128<<20)
	c.MaxMessage = cmp.Or(c.MaxMessage, 512<<20)
	return c
}

// Session is what the owner of an endpoint or client keeps for one connection.
// Both methods run on the connection's goroutine, in order, Closed once and last.
type Session interface {
	// Receive handles one message; it need not read r to its end. An error closes
	// the connection (1008, the text as reason): for a message that is merely
	// wrong, count it and return nil. While it runs nothing else is read from the
	// peer, pings included, so it must not take longer than PongTimeout unless it
	// is busy reading r.
	Receive(r io.Reader) error
	// Closed says why the connection ended: nil when this side asked for it.
	Closed(err error)
}

// Connect is called once for a new connection, before anything is read from it.
// It may send. An error closes the connection (1000, the text as reason); a nil
// Session discards whatever the peer sends.
type Connect func(c *Conn) (Session, error)

// Status is a close code of RFC 6455 §7.4.1.
type Status int

// The close codes this package sends.
const (
	StatusNormal    Status = 1000
	StatusGoingAway Status = 1001 // this side stops
	StatusPolicy    Status = 1008 // Receive refused a message
	StatusTooBig    Status = 1009 // a message above Config.MaxMessage
	StatusInternal  Status = 1011 // a panic while handling a message
	StatusTryAgain  Status = 1013 // the peer did not keep up
)

// CloseError is the close frame that ended a connection, as the peer sent it.
type CloseError struct {
	Code   Status
	Reason string
}

// Error names the code and, when there is one, the reason.
func (e CloseError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("closed by peer (%d)", e.Code)
	}
	return fmt.Sprintf("closed by peer (%d): %s", e.Code, e.Reason)
}

// Why a connection ended, or why a message was not taken.
var (
	ErrClosed       = errors.New("connection is closed")
	ErrSlowPeer     = errors.New("peer does not keep up with its messages")
	ErrPongTimeout  = errors.New("peer does not answer pings")
	ErrWriteTimeout = errors.New("peer does not read")
	ErrPanic        = errors.New("internal error while handling a message")
	ErrNotSkydive   = errors.New("no X-Host-ID and X-Service-Type in the answer: not a Skydive server")
)
