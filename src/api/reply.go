package api

import (
	"compress/gzip"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// compressFrom is the size from which compressing pays: what is smaller fits one packet anyway.
const compressFrom = 1400

// reply is the answer to one request. It holds back the beginning, so that it can still become another one, compresses what is worth
// it, and gives up on a client that does not read.
type reply struct {
	http.ResponseWriter
	s       *Server
	r       *http.Request
	conn    *http.ResponseController
	status  int
	head    []byte // held back until started
	started bool
	zip     *gzip.Writer // nil: as it is
}

func (s *Server) reply(w http.ResponseWriter, r *http.Request) *reply {
	return &reply{ResponseWriter: w, s: s, r: r, conn: http.NewResponseController(w), status: http.StatusOK}
}

// WriteHeader sets the status; it is sent with the first part of the body.
func (o *reply) WriteHeader(status int) {
	if !o.started {
		o.status = status
	}
}

// Unwrap is for http.ResponseController.
func (o *reply) Unwrap() http.ResponseWriter { return o.ResponseWriter }

func (o *reply) Write(p []byte) (int, error) {
	if !o.started {
		if len(o.head)+len(p) < compressFrom {
			o.head = append(o.head, p...)
			return len(p), nil
		}
		if err := o.start(true); err != nil {
			return 0, err
		}
	}
	return o.send(p)
}

// send hands on a part; each gets its own time, so that a large answer to a slow reader is fine and one to a dead one is not.
func (o *reply) send(p []byte) (int, error) {
	_ = o.conn.SetWriteDeadline(time.Now().Add(stallTimeout))
	if o.zip != nil {
		return o.zip.Write(p)
	}
	return o.ResponseWriter.Write(p)
}

func (o *reply) start(large bool) error {
	o.started = true
	h := o.Header()
	_ = o.conn.SetWriteDeadline(time.Now().Add(stallTimeout))
	if large && o.r.Method != http.MethodHead && h.Get("Content-Encoding") == "" && acceptsGzip(o.r.Header.Get("Accept-Encoding")) {
		h.Set("Content-Encoding", "gzip")
		h.Del("Content-Length")
		if o.zip, _ = o.s.gzips.Get().(*gzip.Writer); o.zip == nil {
			o.zip, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed)
		}
		o.zip.Reset(o.ResponseWriter)
	}
	o.ResponseWriter.WriteHeader(o.status)
	if len(o.head) == 0 {
		return nil
	}
	_, err := o.send(o.head)
	return err
}

// reset forgets what is held back.
func (o *reply) reset() {
	o.head, o.status = nil, http.StatusOK
	for _, name := range []string{"Content-Type", "Content-Length", "Etag", "Set-Cookie"} {
		o.Header().Del(name)
	}
}

// finish sends what is left. Deferred, it turns a panic of the handler into an answer while that is possible.
func (o *reply) finish() {
	if p := recover(); p != nil {
		o.s.metrics.requests.WithLabelValues(o.r.Pattern, strconv.Itoa(http.StatusInternalServerError)).Inc()
		if p == http.ErrAbortHandler || o.started {
			panic(p) // the middleware counts it, and ends the connection
		}
		o.s.panicked(o.r, p)
		o.reset()
		http.Error(o, "internal error; the log of this "+o.s.Service+" tells more", http.StatusInternalServerError)
	} else {
		o.s.metrics.requests.WithLabelValues(o.r.Pattern, strconv.Itoa(o.status)).Inc()
	}
	if !o.started && o.start(false) != nil {
		return
	}
	if o.zip != nil {
		_ = o.zip.Close() // the client is gone, or the next read tells it
		o.zip.Reset(nil)
		o.s.gzips.Put(o.zip)
	}
}

func acceptsGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, weight, _ := strings.Cut(part, ";")
		if name = strings.TrimSpace(name); name != "gzip" && name != "*" {
			continue
		}
		_, q, ok := strings.Cut(weight, "=")
		n, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
		return !ok || err == nil && n > 0
	}
	return false
}
