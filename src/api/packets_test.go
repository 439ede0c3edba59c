package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"skydive/src/capture"
	"skydive/src/flow"
	"skydive/src/query"
)

func TestLivePackets(t *testing.T) {
	frame := bytes.Repeat([]byte{7}, 3000) // larger than what is compressed
	next, gone := make(chan bool), make(chan struct{}, 1)
	s := newServer(t, map[string]string{"admin": "a", "bob": "b"}, func(o *Options) {
		o.Packets = func(ctx context.Context, capture string, w io.Writer) error {
			if capture != "c1" {
				return fmt.Errorf("capture %s: %w", capture, fs.ErrNotExist)
			}
			packets := flow.NewPcapngWriter(w)
			if err := packets.Start(); err != nil {
				return err
			}
			for {
				select {
				case more := <-next:
					if !more {
						return nil
					}
				case <-ctx.Done():
					gone <- struct{}{}
					return ctx.Err()
				}
				if err := errors.Join(packets.Packet("eth0", 1, 5, 5000, frame), packets.Flush()); err != nil {
					return err
				}
			}
		}
	})
	get := func(ctx context.Context, user, id string) *http.Response {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/api/capture/"+id+"/pcapng", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(user, user[:1])
		r.Header.Set("Accept-Encoding", "gzip")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	if resp := get(t.Context(), "bob", "c1"); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("guest: %s", resp.Status)
	}
	resp := get(t.Context(), "admin", "nope")
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusNotFound || string(text) != "Capture 'nope' not found\n" {
		t.Errorf("%s %s", resp.Status, text)
	}
	// Each packet arrives before the next one is sent.
	resp = get(t.Context(), "admin", "c1")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-pcapng" || resp.Header.Get("Content-Encoding") != "" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	var want bytes.Buffer
	packets := flow.NewPcapngWriter(&want)
	if err := packets.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		got := make([]byte, want.Len())
		if _, err := io.ReadFull(resp.Body, got); err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("part %d: %x %v", i, got, err)
		}
		want.Reset()
		if err := errors.Join(packets.Packet("eth0", 1, 5, 5000, frame), packets.Flush()); err != nil {
			t.Fatal(err)
		}
		next <- true
	}
	next <- false // the capture ends
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("at the end: %x %v", got, err)
	}
	// A client that goes away ends it.
	ctx, cancel := context.WithCancel(t.Context())
	get(ctx, "admin", "c1")
	cancel()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("the capture is followed for nobody")
	}
}

func TestLivePacketsThatCannotBeHad(t *testing.T) {
	s := newServer(t, nil, func(o *Options) {
		o.Packets = func(context.Context, string, io.Writer) error { return errors.New("no agent captures") }
	})
	if resp, text := s.do(t, http.MethodGet, "/api/capture/x/pcapng", ""); resp.StatusCode != http.StatusServiceUnavailable || text != "no agent captures\n" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s %s", resp.Status, text)
	}
	none := newServer(t, nil, nil)
	if resp, _ := none.do(t, http.MethodGet, "/api/capture/x/pcapng", ""); resp.StatusCode != http.StatusNotFound {
		t.Errorf("without packets: %s", resp.Status)
	}
	if resp, _ := none.do(t, http.MethodPost, "/api/pcap", "x"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("without pcap: %s", resp.Status)
	}
}

// TestPacketsOfFlowsAreGuarded: what packets hold is for those who may see packets, however they ask.
func TestPacketsOfFlowsAreGuarded(t *testing.T) {
	s := newServer(t, map[string]string{"admin": "a", "bob": "b"}, nil)
	const admin, bob = "Authorization: Basic YWRtaW46YQ==", "Authorization: Basic Ym9iOmI="
	for _, query := range []string{"G.Flows().RawPackets()", "G.Flows().RawPackets().BPF('tcp')", "G.Flows( ) . RawPackets ( )"} {
		body := `{"GremlinQuery": "` + query + `"}`
		if resp, _ := s.do(t, http.MethodPost, "/api/topology", body, bob); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s of a guest: %s", query, resp.Status)
		}
		if resp, _ := s.do(t, http.MethodPost, "/api/topology", body, admin); resp.StatusCode == http.StatusMethodNotAllowed {
			t.Errorf("%s of an administrator: %s", query, resp.Status)
		}
	}
	if resp, text := s.do(t, http.MethodPost, "/api/topology", `{"GremlinQuery": "G.V().Count()"}`, bob); resp.StatusCode != http.StatusOK {
		t.Errorf("a guest: %s %s", resp.Status, text)
	}
}

type busy struct{ error }

func (busy) Status() int { return http.StatusInsufficientStorage }

func TestImportPcap(t *testing.T) {
	reading, release := make(chan struct{}), make(chan struct{})
	var size int64
	s := newServer(t, map[string]string{"admin": "a", "bob": "b"}, func(o *Options) {
		o.Pcap = func(_ context.Context, file io.Reader) error {
			head := make([]byte, 4)
			if _, err := io.ReadFull(file, head); err != nil {
				return err
			}
			n, err := io.Copy(io.Discard, file)
			size = n + 4
			switch string(head) {
			case "wait":
				reading <- struct{}{}
				<-release
			case "full":
				return busy{errors.New("the disk is full")}
			}
			return err
		}
	})
	const admin, bob = "Authorization: Basic YWRtaW46YQ==", "Authorization: Basic Ym9iOmI="
	if resp, _ := s.do(t, http.MethodPost, "/api/pcap", "good", bob); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("guest: %s", resp.Status)
	}
	for body, want := range map[string]int{"good": 202, "bad": 400, "": 400, "full": 507, strings.Repeat("x", 3*maxBody): 202} {
		resp, text := s.do(t, http.MethodPost, "/api/pcap", body, admin)
		if resp.StatusCode != want || (text == "") != (want == 202) || want == 202 && (size != int64(len(body)) || resp.Header.Get("Content-Type") != jsonType) {
			t.Errorf("%.10s: %s %q %v, %d bytes", body, resp.Status, text, resp.Header, size)
		}
	}
	var both sync.WaitGroup
	both.Go(func() {
		if resp, _ := s.do(t, http.MethodPost, "/api/pcap", "wait", admin); resp.StatusCode != http.StatusAccepted {
			t.Errorf("first: %s", resp.Status)
		}
	})
	<-reading
	if resp, _ := s.do(t, http.MethodPost, "/api/pcap", "good", admin); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("second: %s", resp.Status)
	}
	close(release)
	both.Wait()
}

func TestPcapThatComesSlowly(t *testing.T) {
	var got string
	edit := func(o *Options) {
		o.Pcap = func(_ context.Context, file io.Reader) error {
			data, err := io.ReadAll(file)
			got = string(data)
			return err
		}
	}
	const head = "POST /api/pcap HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
	inBubble(t, edit, func(t *testing.T, _ *Server, conn net.Conn) {
		fmt.Fprint(conn, head)
		for range 10 { // in much more than the time that other bodies have
			<-time.After(stallTimeout - time.Second)
			fmt.Fprint(conn, "x")
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusAccepted || got != "xxxxxxxxxx" {
			t.Errorf("%v %v %q", resp, err, got)
		}
	})
	inBubble(t, edit, func(t *testing.T, _ *Server, conn net.Conn) {
		began := time.Now()
		fmt.Fprint(conn, head+"x")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil && resp.StatusCode != http.StatusBadRequest {
			t.Error(resp.Status)
		}
		if took := time.Since(began); took > stallTimeout+time.Second {
			t.Errorf("waited %v", took)
		}
	})
}

// packetSource answers every question for flows with the same.
type packetSource []*flow.Flow

func (p packetSource) Flows(context.Context, []string, *flow.Search) ([]*flow.Flow, []string, error) {
	return p, nil, nil
}

func (p packetSource) Total(context.Context, []string, *flow.Search, flow.Aggregate) (flow.Total, []string, error) {
	return flow.Total{}, nil, errors.New("not asked")
}

func TestQueryForPcap(t *testing.T) {
	frame := make([]byte, 60)
	flows := packetSource{
		{UUID: "a", LastRawPackets: []flow.RawPacket{{Timestamp: 2000, Index: 1, Data: frame, LinkType: 1}, {Timestamp: 4000, Index: 2, Data: frame, LinkType: 1}}},
		{UUID: "b", LastRawPackets: []flow.RawPacket{{Timestamp: 3000, Index: 1, Data: frame[:50], LinkType: 1}}},
	}
	none := packetSource{}
	for _, c := range []struct {
		flows  packetSource
		query  string
		status int
		want   string // lengths of packets; - for no file at all
	}{
		{flows, "G.Flows().RawPackets()", 200, "60 50 60"},
		{flows, "G.Flows().RawPackets().BPF('udp port 1')", 200, ""},
		{none, "G.Flows().RawPackets()", 200, "-"},
		{flows, "G.Flows()", 406, "Only RawPackets step result can be outputted as pcap"},
		{flows, "G", 406, "Only RawPackets step result can be outputted as pcap"},
	} {
		s := newServer(t, nil, func(o *Options) {
			g := o.Graph
			o.Source = func() query.Source { return query.Source{Graph: g.Snapshot(), Flows: c.flows} }
		})
		resp, text := s.do(t, http.MethodPost, "/api/topology", fmt.Sprintf(`{"GremlinQuery":%q}`, c.query), "Accept: "+pcapType)
		if resp.StatusCode != c.status {
			t.Errorf("%s: %s %s", c.query, resp.Status, text)
			continue
		}
		if c.status != 200 {
			if !strings.Contains(text, c.want) {
				t.Errorf("%s: %s", c.query, text)
			}
			continue
		}
		if resp.Header.Get("Content-Type") != pcapType+"; charset=UTF-8" {
			t.Errorf("%s: %v", c.query, resp.Header)
		}
		if c.want == "-" {
			if text != "" {
				t.Errorf("%s: %q", c.query, text)
			}
			continue
		}
		r, err := capture.NewPcapReader(strings.NewReader(text), 1<<16)
		if err != nil {
			t.Errorf("%s: %v", c.query, err)
			continue
		}
		var got []string
		for {
			batch, err := r.Next()
			if err != nil {
				break
			}
			for _, p := range batch {
				got = append(got, fmt.Sprint(len(p.Data)))
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.query, got, c.want)
		}
	}
}
