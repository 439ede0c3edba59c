package ws

import (
	"sync"
	"time"
)

// batchSize is how many bytes one write carries at most. Longer messages are cut
// into frames of this size, so that pings pass between them and the write
// timeout is about progress, not about the length of a message.
const batchSize = 64 << 10

func newBuffers() *sync.Pool {
	return &sync.Pool{New: func() any {
		b := make([]byte, 0, batchSize)
		return &b
	}}
}

// write is the writer goroutine: pings, batches of queued messages, and in the
// end the close frame.
func (c *Conn) write() {
	w := writer{conn: c, ping: appendFrame(nil, opPing, true, c.client, nil), opcode: opText}
	if c.peer.Binary() {
		w.opcode = opBinary
	}
	w.timeout = time.AfterFunc(c.cfg.WriteTimeout, func() {
		c.metrics.timeouts.Inc()
		c.fail(ErrWriteTimeout)
	})
	defer w.timeout.Stop()
	ok := true
	if c.cfg.PingDelay > 0 {
		ticker := time.NewTicker(c.cfg.PingDelay)
		defer ticker.Stop()
		w.tick = ticker.C
		ok = w.put(w.ping)
	}
	for ok {
		select {
		case <-w.tick:
			ok = w.put(w.ping)
		case <-c.wake:
			ok = w.batch(c.take(w.spare))
			closing, ended := c.ending()
			if ok = ok && !ended; ok && closing != nil {
				w.put(appendFrame(nil, opClose, true, c.client, closing))
				time.AfterFunc(c.cfg.CloseTimeout, c.abort)
				return
			}
		}
	}
}

// take swaps the queue for an empty slice.
func (c *Conn) take(spare [][]byte) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	msgs := c.queue
	c.queue = spare[:0]
	return msgs
}

// ending returns what the close frame must say, nil while there is something to
// write before it, and whether the stream is gone anyway.
func (c *Conn) ending() (closing []byte, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 {
		return nil, c.ended
	}
	return c.closing, c.ended
}

// written gives room back to senders and reports whether to go on writing.
func (c *Conn) written(msgs, bytes int) bool {
	c.metrics.messagesOut.Add(float64(msgs))
	c.metrics.bytesOut.Add(float64(bytes))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count -= msgs
	c.bytes -= bytes
	c.notify()
	return !c.evicted && !c.ended
}

// writer is the state of the writer goroutine.
type writer struct {
	conn    *Conn
	ping    []byte
	opcode  byte
	tick    <-chan time.Time // a ping is due; nil: there are none
	timeout *time.Timer
	spare   [][]byte
}

// put writes whole frames within the write timeout; false means the stream is gone.
func (w *writer) put(frames []byte) bool {
	w.timeout.Reset(w.conn.cfg.WriteTimeout)
	_, err := w.conn.link.Write(frames)
	w.timeout.Stop()
	if err != nil {
		w.conn.lost(err)
	}
	return err == nil
}

// batch writes messages, as many per system call as fit, and reports whether the
// stream can still be written to. An evicted peer does not get the rest.
func (w *writer) batch(msgs [][]byte) bool {
	pooled := w.conn.buffers.Get().(*[]byte)
	defer w.conn.buffers.Put(pooled)
	buf, count, size, goOn, ok := (*pooled)[:0], 0, 0, true, true // count messages of size bytes end in buf
	flush := func() {
		if len(buf) == 0 {
			return
		}
		ok = w.put(buf)
		goOn = w.conn.written(count, size) && ok
		buf, count, size = buf[:0], 0, 0
		select {
		case <-w.tick:
			ok = ok && w.put(w.ping)
		default:
		}
	}
	for i, msg := range msgs {
		opcode, rest := w.opcode, msg
		if len(buf)+maxHeader+len(rest) > batchSize {
			flush()
		}
		for goOn && len(rest) > batchSize-maxHeader {
			buf = appendFrame(buf, opcode, false, w.conn.client, rest[:batchSize-maxHeader])
			opcode, rest = opContinuation, rest[batchSize-maxHeader:]
			flush()
		}
		if !goOn {
			w.conn.metrics.dropped.Add(float64(len(msgs) - i))
			break
		}
		buf = appendFrame(buf, opcode, true, w.conn.client, rest)
		count++
		size += len(msg)
	}
	flush()
	clear(msgs)
	if w.spare = msgs; cap(msgs) > 1024 { // a burst must not keep its memory
		w.spare = nil
	}
	return ok
}
