package ovs

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

func frames(r io.Reader, limit int) (all []string, err error) {
	f := newFramer(r, limit)
	for {
		m, err := f.next()
		if err != nil {
			return all, err
		}
		all = append(all, string(m))
	}
}

func TestFramerCutsAStream(t *testing.T) {
	const stream = ` {"a":"}{\"\\"}{"b":[{"c":[]},"["]}` + "\n\t{}"
	want := []string{`{"a":"}{\"\\"}`, `{"b":[{"c":[]},"["]}`, `{}`}
	for name, r := range map[string]io.Reader{
		"at once": strings.NewReader(stream), "byte by byte": iotest.OneByteReader(strings.NewReader(stream)),
	} {
		got, err := frames(r, 1<<20)
		if strings.Join(got, "|") != strings.Join(want, "|") || err == nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestFramerRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"no object": `{} []`, "garbage": "HTTP/1.1 400 Bad Request\r\n", "too long": `{"a":"` + strings.Repeat("x", 9000) + `"}`,
		"never ends": strings.Repeat(`{"a":`, 4000), "cut off": `{"a":1`,
	} {
		if got, err := frames(strings.NewReader(text), 8192); err == nil || len(got) > 1 {
			t.Errorf("%s: %d messages, %v", name, len(got), err)
		}
	}
}

func TestFramerGoesOnAfterATimeout(t *testing.T) {
	r := &hesitant{parts: []string{`{"a":[1,`, "", `2]}{`, "", `}`}}
	f := newFramer(r, 1<<20)
	var got []string
	for len(got) < 2 {
		m, err := f.next()
		if err == nil {
			got = append(got, string(m))
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	if got[0] != `{"a":[1,2]}` || got[1] != `{}` {
		t.Errorf("%q", got)
	}
}

// hesitant times out where a part is empty.
type hesitant struct{ parts []string }

func (h *hesitant) Read(p []byte) (int, error) {
	if len(h.parts) == 0 {
		return 0, io.EOF
	}
	part := h.parts[0]
	h.parts = h.parts[1:]
	if part == "" {
		return 0, os.ErrDeadlineExceeded
	}
	return copy(p, part), nil
}

func TestFramerGivesUpLargeBuffers(t *testing.T) {
	large := `{"a":"` + strings.Repeat("x", 3*keepBuffer) + `"}`
	f := newFramer(strings.NewReader(large+`{}`), usualMessage)
	for range 2 {
		if _, err := f.next(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.next(); err == nil || cap(f.buf) > keepBuffer {
		t.Errorf("buffer of %d bytes is kept (%v)", cap(f.buf), err)
	}
}

func FuzzFramer(f *testing.F) {
	f.Add([]byte(`{"a":"}{\""}{"b":[{}]} {}`), 3)
	f.Add([]byte(`{"a":"\u00e9\\"}`), 1)
	f.Add([]byte(`[}{"`), 100)
	f.Fuzz(func(t *testing.T, data []byte, chunk int) {
		if chunk <= 0 {
			chunk = 1
		}
		all, _ := frames(bytes.NewReader(data), 1<<16)
		pieces, _ := frames(&chunked{data, chunk}, 1<<16)
		if strings.Join(all, "\x00") != strings.Join(pieces, "\x00") {
			t.Errorf("read in pieces of %d: %q, at once: %q", chunk, pieces, all)
		}
		// What a JSON decoder reads as a run of objects comes out the same.
		dec := json.NewDecoder(bytes.NewReader(data))
		for _, m := range all {
			var want json.RawMessage
			if dec.Decode(&want) != nil {
				return
			}
			if string(want) != m {
				t.Errorf("%q, want %q", m, want)
			}
		}
	})
}

type chunked struct {
	data []byte
	size int
}

func (c *chunked) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.data[:min(c.size, len(c.data))])
	c.data = c.data[n:]
	return n, nil
}
