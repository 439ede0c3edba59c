package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"skydive/src/e2e"
)

// service is a running skydive, and a connection to its API that is kept open.
type service struct {
	host *e2e.Host
	proc *e2e.Process
	addr string
	http *http.Client
	took time.Duration // from start to the first answer
}

// start runs skydive ("analyzer", "agent" or "allinone") on a new host and returns it once its API answers.
func (r *run) start(kind, config string) (*service, error) {
	r.hosts++
	host, err := r.lab.AddHost("h" + strconv.Itoa(r.hosts))
	if err != nil {
		return nil, err
	}
	return r.startOn(host, kind, config)
}

// startOn runs it with these topology probes besides those that always run.
func (r *run) startOn(host *e2e.Host, kind, config string, probes ...string) (*service, error) {
	s := &service{host: host, addr: "127.0.0.1:8082", http: host.HTTP()}
	config += fmt.Sprintf("host_id: %s\nagent: {topology: {probes: [%s]}}\netcd: {data_dir: %s/etcd}\n", host.Name, strings.Join(probes, ", "), host.Dir)
	switch kind {
	case "analyzer":
		s.addr = host.IP + ":8082"
		config += "analyzer: {listen: 0.0.0.0:8082}\n"
	case "agent":
		s.addr = "127.0.0.1:8081"
	}
	begin := time.Now()
	var err error
	if s.proc, err = host.Start(config, kind); err != nil {
		return nil, err
	}
	var gone error // it ended: nothing will answer any more
	err = r.until(30*time.Second, time.Millisecond, "the API of the "+kind, func() (bool, error) {
		if gone = s.proc.Signal(syscall.Signal(0)); gone != nil {
			return true, nil
		}
		res, err := s.http.Get("http://" + s.addr + "/api")
		if err != nil {
			return false, err
		}
		defer res.Body.Close()
		_, err = io.Copy(io.Discard, res.Body)
		return res.StatusCode == http.StatusOK && err == nil, fmt.Errorf("%s %w", res.Status, err)
	})
	s.took = time.Since(begin)
	if gone != nil {
		err = fmt.Errorf("the %s ended", kind)
	}
	if err != nil {
		text := s.proc.Output()
		s.stop()
		return nil, fmt.Errorf("%w\n%s", err, text[max(0, len(text)-2000):])
	}
	return s, nil
}

func (r *run) startAnalyzer() (*service, error) { return r.start("analyzer", "") }

func (r *run) startAgent(analyzer *service) (*service, error) {
	return r.start("agent", "analyzers: ["+analyzer.addr+"]\n")
}

func (s *service) stop() {
	s.http.CloseIdleConnections()
	s.proc.Kill()
}

// ask sends a Gremlin query and writes the answer to out.
func (s *service) ask(ctx context.Context, gremlin string, out io.Writer) error {
	req, err := s.request(ctx, gremlin)
	if err != nil {
		return err
	}
	res, err := s.http.Do(req)
	if err != nil {
		return err
	}
	return take(res, gremlin, out)
}

func (s *service) request(ctx context.Context, gremlin string) (*http.Request, error) {
	body, err := json.Marshal(map[string]string{"GremlinQuery": gremlin})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.addr+"/api/topology", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return req, nil
}

// get decodes the answer of a path.
func (s *service) get(path string, into any) error {
	res, err := s.http.Get("http://" + s.addr + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, res.Status)
	}
	return json.NewDecoder(res.Body).Decode(into)
}

// take reads an answer to its end.
func take(res *http.Response, gremlin string, out io.Writer) error {
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 500))
		return fmt.Errorf("%s: %s: %s", gremlin, res.Status, bytes.TrimSpace(text))
	}
	_, err := io.Copy(out, res.Body)
	return err
}

// asker returns a function that asks the same query again and again over one connection, and one that closes it. It does what any
// client does, but without the goroutines of net/http's, whose turns would be a good part of a short answer's time.
func (s *service) asker(ctx context.Context, gremlin string) (ask func(out io.Writer) error, hangUp func() error, err error) {
	req, err := s.request(ctx, gremlin)
	if err != nil {
		return nil, nil, err
	}
	var text bytes.Buffer
	if err := req.Write(&text); err != nil {
		return nil, nil, err
	}
	conn, err := s.host.Dial(ctx, "tcp", s.addr)
	if err != nil {
		return nil, nil, err
	}
	in := bufio.NewReader(conn)
	return func(out io.Writer) error {
		if _, err := conn.Write(text.Bytes()); err != nil {
			return err
		}
		res, err := http.ReadResponse(in, req)
		if err != nil {
			return err
		}
		return take(res, gremlin, out)
	}, conn.Close, nil
}

// count asks for a number.
func (s *service) count(ctx context.Context, gremlin string) (int, error) {
	var out bytes.Buffer
	if err := s.ask(ctx, gremlin, &out); err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(string(bytes.TrimSpace(out.Bytes())))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", gremlin, err)
	}
	return n, nil
}

// usage returns what the service used since an earlier usage (zero: since it started); the peak is since forget.
func (s *service) usage(before e2e.Usage) (e2e.Usage, error) {
	u, err := s.proc.Usage()
	u.CPU -= before.CPU
	return u, err
}

// forget makes the memory peak start again from what is used now.
func (s *service) forget() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.proc.PID()), []byte("5"), 0)
}

// during measures what the service uses while fn runs.
func (s *service) during(fn func() error) (e2e.Usage, error) {
	if err := s.forget(); err != nil {
		return e2e.Usage{}, err
	}
	before, err := s.proc.Usage()
	if err != nil {
		return e2e.Usage{}, err
	}
	err = fn()
	after, uerr := s.usage(before)
	return after, errors.Join(err, uerr)
}
