package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"skydive/src/e2e"
)

// The interfaces that are captured: what is sent on the one arrives on the other.
const captured, sending = "bn0", "bn1"

// site is an analyzer, and an agent on a host with a pair of interfaces, of which one is captured.
type site struct {
	analyzer, agent *service
	capture         string // its identifier
}

// startSite starts all that with the kind of capture. update is the time between two reports of a flow, in seconds.
func (r *run) startSite(kind string, update int) (*site, error) {
	config := fmt.Sprintf("flow: {update: %d, expire: 600}\n", update)
	analyzer, err := r.start("analyzer", config)
	if err != nil {
		return nil, err
	}
	s := &site{analyzer: analyzer}
	if s.agent, err = r.start("agent", config+"analyzers: ["+analyzer.addr+"]\n"); err == nil {
		_, err = s.agent.host.Script("ip link add " + captured + " type veth peer name " + sending + `
			for i in ` + captured + " " + sending + `; do sysctl -qw net.ipv6.conf.$i.disable_ipv6=1; ip link set $i up; done`)
	}
	if err == nil {
		err = s.start(r, kind)
	}
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *site) stop() {
	if s.agent != nil {
		s.agent.stop()
	}
	s.analyzer.stop()
}

// start makes the capture and waits until it is active.
func (s *site) start(r *run, kind string) error {
	body := fmt.Sprintf(`{"GremlinQuery": "G.V().Has('Name', '%s')", "Type": "%s"}`, captured, kind)
	res, err := s.analyzer.http.Post("http://"+s.analyzer.addr+"/api/capture", "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusCreated {
		return fmt.Errorf("create capture: %s: %s (%w)", res.Status, text, err)
	}
	var made struct{ UUID string }
	if err := json.Unmarshal(text, &made); err != nil {
		return err
	}
	s.capture = made.UUID
	return r.until(10*time.Second, 20*time.Millisecond, "the capture", func() (bool, error) {
		c, err := s.state(r)
		return c.State == "active", fmt.Errorf("%+v (%w)", c, err)
	})
}

// state is what the captured interface says of the capture.
type state struct {
	ID, State, Error, PCAPSocket    string
	PacketsReceived, PacketsDropped int
}

func (s *site) state(r *run) (state, error) {
	var out bytes.Buffer
	if err := s.analyzer.ask(r.ctx, "G.V().Has('Name', '"+captured+"').Values('Captures')", &out); err != nil {
		return state{}, err
	}
	var all [][]state
	if err := json.Unmarshal(out.Bytes(), &all); err != nil {
		return state{}, fmt.Errorf("%s: %w", out.Bytes(), err)
	}
	for _, list := range all {
		for _, c := range list {
			if c.ID == s.capture {
				return c, nil
			}
		}
	}
	return state{}, nil
}

// taken waits until the capture has counted so many packets, received and dropped.
func (s *site) taken(r *run, packets int) (state, error) {
	var c state
	err := r.until(30*time.Second, 50*time.Millisecond, "the capture's counters", func() (bool, error) {
		var err error
		c, err = s.state(r)
		return c.PacketsReceived+c.PacketsDropped >= packets, fmt.Errorf("%+v of %d packets (%w)", c, packets, err)
	})
	return c, err
}

// feed plays traffic into the capture's socket until so many packets are counted.
func (s *site) feed(r *run, t *traffic, packets int) error {
	before, err := s.state(r)
	if err != nil {
		return err
	}
	conn, err := s.agent.host.Dial(r.ctx, "tcp", before.PCAPSocket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err = conn.Write(pcapHeader()); err == nil {
		err = t.play(conn, packets)
	}
	if err != nil {
		return err
	}
	packets = (packets + len(t.frames) - 1) / len(t.frames) * len(t.frames)
	after, err := s.taken(r, before.PacketsReceived+before.PacketsDropped+packets)
	if lost := after.PacketsDropped - before.PacketsDropped; lost != 0 {
		return fmt.Errorf("%d of %d packets of a stream were dropped", lost, packets)
	}
	return err
}

// measureStream is P15.
func measureStream(r *run) ([]value, error) {
	s, err := r.startSite("pcapsocket", 60)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	t := newTraffic(r.size(50_000, 500), imix)
	if err := s.feed(r, t, len(t.frames)); err != nil { // the flows are made
		return nil, err
	}
	packets := r.size(2_000_000, 20_000)
	used, err := s.agent.during(func() error { return s.feed(r, t, packets) })
	if err != nil {
		return nil, err
	}
	return []value{{Today: micros(used, packets), CPU: used.CPU, RSS: used.PeakRSS}}, nil
}

func micros(u e2e.Usage, packets int) float64 { return u.CPU.Seconds() * 1e6 / float64(packets) }

func measureRing(r *run) ([]value, error)      { return r.ring(imix) }
func measureRingSmall(r *run) ([]value, error) { return r.ring([]int{64}) }

// ring is P16 and P17: what the agent uses for a packet, and the highest of some rates at which none is lost.
func (r *run) ring(sizes []int) ([]value, error) {
	s, err := r.startSite("afpacket", 60)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	out, err := newSender(s.agent.host, sending)
	if err != nil {
		return nil, err
	}
	defer out.close()
	t := newTraffic(r.size(50_000, 500), sizes)
	if _, err := out.send(t, len(t.frames), 100_000); err != nil {
		return nil, err
	}
	total := len(t.frames)
	if _, err := s.taken(r, total); err != nil {
		return nil, err
	}
	var values []value
	for _, rate := range []int{0, 700_000, 600_000, 500_000, 450_000, 400_000, 300_000, 200_000, 100_000, 50_000} {
		packets := r.size(2*max(rate, 500_000), 20_000)
		before, err := s.state(r)
		if err != nil {
			return nil, err
		}
		var after state
		var took time.Duration
		used, err := s.agent.during(func() error {
			if took, err = out.send(t, packets, rate); err != nil {
				return err
			}
			total += packets
			after, err = s.taken(r, total)
			return err
		})
		if err != nil {
			return nil, err
		}
		lost := after.PacketsDropped - before.PacketsDropped
		reached := float64(packets) / took.Seconds()
		values = []value{
			{Today: micros(used, packets), CPU: used.CPU, RSS: used.PeakRSS, Note: fmt.Sprintf("at %.0f k/s", reached/1000)},
			{Today: reached, Note: fmt.Sprintf("%d of %d lost", lost, packets)},
		}
		if lost == 0 {
			return values, nil
		}
	}
	return nil, fmt.Errorf("packets are lost at every rate: %+v", values)
}

// measureFlows is P19 to P21: memory with so many flows, answers about them, and whether all reports of a tick arrive.
func measureFlows(r *run) ([]value, error)     { return r.flows(50_000) }
func measureManyFlows(r *run) ([]value, error) { return r.flows(500_000) }

func (r *run) flows(full int) ([]value, error) {
	const update = 10 // seconds: time enough to ask before the first report
	s, err := r.startSite("pcapsocket", update)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	flows := r.size(full, 1000)
	t := newTraffic(flows, []int{64})
	if err := s.agent.forget(); err != nil {
		return nil, err
	}
	if err := s.feed(r, t, len(t.frames)); err != nil {
		return nil, err
	}
	if n, err := s.analyzer.count(r.ctx, "G.Flows().Count()"); err != nil || n != flows {
		return nil, fmt.Errorf("%d flows, want %d (%w)", n, flows, err)
	}
	var values []value
	for _, q := range []struct {
		gremlin string
		length  int // of the answer; -1: not looked at
	}{
		{"G.Flows().Has('Network','10.0.0.1').Limit(10)", min(10, flows/1000)},
		{"G.Flows().Count()", flows},
		{"G.Flows().Metrics().Sum()", -1},
	} {
		v, err := s.answers(r, q.gremlin, q.length)
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	// Each flow is reported once it changed; two reports later nothing is under way any more.
	var arrived int
	err = r.until(6*update*time.Second, 200*time.Millisecond, "the reports of all flows", func() (bool, error) {
		arrived, err = s.analyzer.count(r.ctx, "G.At('-1s', 3600).Flows().Count()")
		return arrived >= flows, fmt.Errorf("%d of %d (%w)", arrived, flows, err)
	})
	note := ""
	if err != nil {
		note = err.Error()
	}
	used, err := s.agent.proc.Usage()
	if err != nil {
		return nil, err
	}
	memory := value{Today: megabytes(used.PeakRSS), RSS: used.PeakRSS, CPU: used.CPU}
	lost := value{Today: float64(flows - arrived), Note: note}
	return append(append([]value{memory}, values...), lost), nil
}

// answers asks a query of the analyzer again and again, and returns the median time.
func (s *site) answers(r *run, gremlin string, want int) (value, error) {
	ask, hangUp, err := s.analyzer.asker(r.ctx, gremlin)
	if err != nil {
		return value{}, err
	}
	defer hangUp()
	var times []float64
	used, err := s.analyzer.during(func() error {
		for range r.size(30, 3) {
			var answer bytes.Buffer
			begin := time.Now()
			if err := ask(&answer); err != nil {
				return err
			}
			times = append(times, float64(time.Since(begin))/1e6)
			if n, err := length(answer.Bytes()); want >= 0 && (err != nil || n != want) {
				return fmt.Errorf("%s answers %.100s, want %d (%w)", gremlin, answer.Bytes(), want, err)
			}
		}
		return nil
	})
	return value{Today: median(times), CPU: used.CPU / time.Duration(max(len(times), 1)), RSS: used.PeakRSS, Note: "CPU is that of one query, in the analyzer"}, err
}
