package api

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"time"

	"skydive/src/flow"
	"skydive/src/query"
)

// mountPackets serves packets that come and go as they are.
func (s *Server) mountPackets() {
	if s.Packets != nil {
		s.handle("GET /api/capture/{id}/pcapng", s.watched("capture", "rawpackets", withID("capture", s.livePackets)))
	}
	switch {
	case s.Pcap != nil:
		s.handleLarge("POST /api/pcap", s.guarded("pcap", "write", s.importPcap))
	case s.Store != nil:
		s.handle("POST /api/pcap", s.guarded("pcap", "write", func(http.ResponseWriter, *http.Request) error {
			return failf(http.StatusNotImplemented, "this service does not read pcap files")
		}))
	}
}

// livePackets sends the packets of a capture until the client goes away or the capture ends.
func (s *Server) livePackets(w http.ResponseWriter, r *http.Request, id string) error {
	h := w.Header()
	h.Set("Content-Type", "application/x-pcapng")
	h.Set("Cache-Control", "no-store")
	err := s.Packets(r.Context(), id, live{w})
	switch {
	case err == nil || r.Context().Err() != nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return errMissing
	}
	return withStatus(err, http.StatusServiceUnavailable)
}

// live sends each part at once, uncompressed: packets would wait in the compressor.
type live struct{ http.ResponseWriter }

func (l live) Write(p []byte) (int, error) {
	conn := http.NewResponseController(l.ResponseWriter)
	if err := conn.Flush(); err != nil { // what starts by flushing is not compressed
		return 0, err
	}
	n, err := l.ResponseWriter.Write(p)
	if err == nil {
		err = conn.Flush()
	}
	return n, err
}

// FlushError sends what is held back; http.ResponseController calls it.
func (o *reply) FlushError() error {
	if !o.started {
		if err := o.start(false); err != nil {
			return err
		}
	}
	if o.zip != nil {
		if err := o.zip.Flush(); err != nil {
			return err
		}
	}
	_ = o.conn.SetWriteDeadline(time.Now().Add(stallTimeout))
	return o.conn.Flush()
}

// importPcap reads a pcap file of any size, one at a time: each has a flow table of its own.
func (s *Server) importPcap(w http.ResponseWriter, r *http.Request) error {
	if !s.importing.TryLock() {
		return failf(http.StatusServiceUnavailable, "another pcap file is being read")
	}
	defer s.importing.Unlock()
	if err := s.Pcap(r.Context(), r.Body); err != nil {
		return withStatus(err, http.StatusBadRequest)
	}
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// withStatus answers with the status that an error has, or else with the one given.
func withStatus(err error, status int) error {
	var said interface{ Status() int }
	if errors.As(err, &said) {
		status = said.Status()
	}
	return &failure{status, err}
}

// handleLarge is handle for bodies of any size: they must get on, but may take their time.
func (s *Server) handleLarge(pattern string, h handler) {
	s.mux.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := s.reply(w, r)
		defer out.finish()
		if r.Body != nil && r.Body != http.NoBody {
			r.Body = &movingBody{r.Body, http.NewResponseController(w)}
		}
		if err := h(out, r); err != nil {
			s.fail(out, r, err)
		}
	}))
}

// movingBody gives each read its own time.
type movingBody struct {
	io.ReadCloser
	conn *http.ResponseController
}

func (b *movingBody) Read(p []byte) (int, error) {
	_ = b.conn.SetReadDeadline(time.Now().Add(stallTimeout)) // only recorders of tests cannot
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.conn.SetReadDeadline(time.Time{})
	}
	return n, err
}

// writePcap answers a query for packets with a pcap file; without any flow, with nothing.
func writePcap(w http.ResponseWriter, result query.Result) error {
	lists, ok := result.(query.RawPackets)
	if !ok {
		return failf(http.StatusNotAcceptable, "Error while encoding response: Only RawPackets step result can be outputted as pcap")
	}
	w.Header().Set("Content-Type", pcapType+"; charset=UTF-8")
	if len(lists) == 0 {
		return nil
	}
	var packets []flow.RawPacket
	for _, l := range lists {
		packets = append(packets, l.Packets...)
	}
	return flow.WritePcap(w, packets)
}
