package ovs

import (
	"errors"
	"fmt"
	"io"
)

// usualMessage is enough for the content of a switch with tens of thousands of ports.
const usualMessage = 32 << 20

const (
	firstBuffer = 4 << 10
	keepBuffer  = 1 << 20 // larger ones are not kept for the next message
)

var errNotObject = errors.New("message that is not a JSON object")

// framer cuts a stream into JSON objects: OVSDB puts nothing between them. It may be called again after a timeout.
type framer struct {
	r     io.Reader
	limit int
	buf   []byte
	start int // of the present message
	at    int // what is before was looked at
	end   int // of what was read

	depth             int
	inString, escaped bool
}

func newFramer(r io.Reader, limit int) *framer { return &framer{r: r, limit: limit} }

// next returns the next object, valid until the next call.
func (f *framer) next() ([]byte, error) {
	for {
		for f.at < f.end {
			done, err := f.step(f.buf[f.at])
			if err != nil {
				return nil, err
			}
			f.at++
			if done {
				message := f.buf[f.start:f.at]
				f.start = f.at
				return message, nil
			}
		}
		if err := f.read(); err != nil {
			return nil, err
		}
	}
}

// step looks at one byte; done tells that it ends a message.
func (f *framer) step(b byte) (done bool, err error) {
	switch {
	case f.escaped:
		f.escaped = false
	case f.inString:
		switch b {
		case '\\':
			f.escaped = true
		case '"':
			f.inString = false
		}
	case b == '{' || b == '[' && f.depth > 0:
		f.depth++
	case f.depth == 0:
		if b != ' ' && b != '\t' && b != '\r' && b != '\n' {
			return false, errNotObject
		}
		f.start = f.at + 1
	case b == '"':
		f.inString = true
	case b == '}' || b == ']':
		f.depth--
		return f.depth == 0, nil
	}
	return false, nil
}

func (f *framer) read() error {
	if f.start > 0 {
		rest := f.buf[f.start:f.end]
		if len(rest) == 0 && cap(f.buf) > keepBuffer {
			f.buf = nil
		}
		copy(f.buf, rest)
		f.at, f.end, f.start = f.at-f.start, len(rest), 0
	}
	if f.end == len(f.buf) {
		size := min(max(2*len(f.buf), firstBuffer), f.limit)
		if size == len(f.buf) {
			return fmt.Errorf("message of more than %d bytes", f.limit)
		}
		grown := make([]byte, size)
		copy(grown, f.buf[:f.end])
		f.buf = grown
	}
	n, err := f.r.Read(f.buf[f.end:])
	f.end += n
	if n > 0 {
		return nil
	}
	if err == io.EOF {
		return errors.New("the server closed the connection")
	}
	return err
}
