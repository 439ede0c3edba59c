package main

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/agent"
	"skydive/src/analyzer"
	"skydive/src/archive/disk"
	"skydive/src/capture"
	"skydive/src/capture/mirror"
	"skydive/src/capture/sampled"
	"skydive/src/capture/socket"
	"skydive/src/config"
	"skydive/src/etcd"
	"skydive/src/flow"
	"skydive/src/graph"
	"skydive/src/inject"
	"skydive/src/ondemand"
	"skydive/src/query"
	"skydive/src/resource"
	"skydive/src/ws"
)

// flowOptions are those of every flow table.
func flowOptions(cfg *config.Config) (flow.Options, error) {
	tcp, udp, timeouts, err := cfg.Flow.Applications()
	return flow.Options{
		MaxEntries: cfg.Flow.MaxEntries, Update: cfg.Flow.Update, Expire: cfg.Flow.Expire,
		ApplicationTimeouts: timeouts, TCPPorts: tcp, UDPPorts: udp, L3: cfg.Flow.DefaultLayerKeyMode == "L3",
	}, err
}

// flowProtocol decides what was left open: agents that must show who they are, or encrypt, do not send flows in a way that cannot.
func flowProtocol(cfg *config.Config, closed bool) string {
	switch {
	case cfg.Flow.Protocol != "":
		return cfg.Flow.Protocol
	case closed:
		return agent.FlowWebSocket
	}
	return agent.FlowUDP
}

// openFlows is what is said when flows go over UDP although agents show who they are.
const openFlows = "flows go unencrypted over UDP, and nobody can tell from whom they come: see flow.protocol"

// packets is what an agent does with packets: captures, injections, and flows on their way to the analyzers.
type packets struct {
	captures   *capture.Manager
	injections *inject.Manager
	sender     *agent.FlowSender
}

func newPackets(s *service, forwarder *agent.Agent, dial ws.DialOptions, analyzers []string, switches *switchTLS) (*packets, error) {
	cfg := s.cfg
	closed := dial.Username != "" || s.certs.Enabled()
	protocol := flowProtocol(cfg, closed)
	if closed && protocol == agent.FlowUDP {
		s.log.Warn(openFlows)
	}
	p := &packets{}
	var err error
	p.sender, err = agent.NewFlowSender(agent.FlowSenderOptions{Agent: forwarder, Protocol: protocol, Dial: dial, Logger: s.log, Registerer: s.registry})
	if err != nil {
		return nil, err
	}
	template, err := flowOptions(cfg)
	if err != nil {
		return nil, err
	}
	kinds := captureKinds(s, switches)
	p.captures = capture.New(capture.Options{
		Kinds: kinds, Targets: socket.Targets(), Sink: p.sender, Flow: template,
		Publish: agent.Publish(s.graph, "Captures", s.log), Metrics: agent.PublishObject(s.graph, s.log),
		Excluded: analyzers, StatsUpdate: cfg.Agent.Capture.StatsUpdate, Log: s.log, Registerer: s.registry,
	})
	p.injections = inject.New(inject.Options{Publish: agent.Publish(s.graph, "PacketInjections", s.log), Logger: s.log, Registerer: s.registry})
	tasks := agent.NewTasks(agent.TasksOptions{Graph: s.graph, Captures: p.captures, Packets: p.captures, Injections: p.injections, Logger: s.log})
	forwarder.Attach(tasks)
	for _, run := range []func(context.Context) error{
		tasks.Run, p.injections.Run, func(ctx context.Context) error { return p.sender.Run(ctx, p.captures.Run) },
	} {
		s.add(run)
	}
	return p, nil
}

// captureKinds are the ways to capture that this agent has; those of Open vSwitch where it is watched.
func captureKinds(s *service, switches *switchTLS) map[string]capture.Kind {
	flows := s.cfg.Agent.Flow
	kinds := socket.Kinds(socket.Options{
		RingSize: int(s.cfg.Agent.Capture.RingSize), BindAddress: flows.PcapSocket.BindAddress,
		MinPort: flows.PcapSocket.MinPort, MaxPort: flows.PcapSocket.MaxPort,
	})
	maps.Copy(kinds, sampled.Kinds(sampled.Options{}))
	if !slices.Contains(s.cfg.Agent.Topology.Probes, "ovsdb") {
		return kinds
	}
	links := agent.NewLinks(s.graph, s.log)
	bridges := mirror.New(mirror.Options{
		Database: s.cfg.OVS.OVSDB, TLS: switches.database, Host: s.cfg.HostID, Interface: kinds["afpacket"],
		SFlow:     mirror.Pool{Address: flows.SFlow.BindAddress, MinPort: flows.SFlow.PortMin, MaxPort: flows.SFlow.PortMax},
		NetFlow:   mirror.Pool{Address: flows.NetFlow.BindAddress, MinPort: flows.NetFlow.PortMin, MaxPort: flows.NetFlow.PortMax},
		Mirroring: links.Mirroring, Log: s.log,
	})
	s.add(links.Run)
	s.add(bridges.Run)
	maps.Copy(kinds, bridges.Kinds())
	return kinds
}

// archives are the storages of an analyzer; nil where history is not kept. Both may be one.
type archives struct {
	topology, flows *disk.Archive
	all             query.Storage // flows, and those of the other analyzers; nil without these
	host            string        // this analyzer, where there are others
}

// ownHistory is the topology's history as one of several analyzers has it: there was a time when it did not run, or did not exist.
type ownHistory struct {
	query.History
	host string
}

// Graph says so when it knows of nothing at all: whoever asks may ask another analyzer.
func (h ownHistory) Graph(ctx context.Context, from, to time.Time) ([]*graph.Node, []*graph.Edge, error) {
	nodes, edges, err := h.History.Graph(ctx, from, to)
	if err == nil && len(nodes) == 0 {
		err = query.Missing{h.host}
	}
	return nodes, edges, err
}

func newArchives(env *environment, s *service) *archives {
	cfg := s.cfg
	open := map[string]*disk.Archive{} // by directory
	get := func(name string) *disk.Archive {
		section := cfg.StorageSection(name)
		if section.Driver != "disk" {
			return nil
		}
		path := section.Path
		if path == "" {
			path = filepath.Join(filepath.Dir(cfg.Etcd.DataDir), "archive")
		}
		path = env.stateDir(path, s.log)
		if open[path] == nil {
			open[path] = disk.New(disk.Options{
				Path: path, MaxAge: section.MaxAge, MaxSize: int64(section.MaxSize), FlowUpdate: cfg.Flow.Update, Logger: s.log,
				Registerer: prometheus.WrapRegistererWith(prometheus.Labels{"storage": name}, s.registry),
			})
		}
		return open[path]
	}
	return &archives{topology: get(cfg.Analyzer.Topology.Backend), flows: get(cfg.Analyzer.Flow.Backend)}
}

// run runs the archives, and the flows that go into them, which end first: what was taken from agents is kept. An archive that cannot be
// opened, or fails to end, ends all.
func (a *archives) run(ctx context.Context, g *graph.Graph, flows func(context.Context) error) error {
	open, closeAll := context.WithCancel(context.WithoutCancel(ctx))
	defer closeAll()
	var all group
	for _, archive := range a.distinct() {
		all.add(archive.Run)
	}
	all.add(func(opened context.Context) error {
		defer closeAll()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(opened, cancel)()
		var both group
		both.add(flows)
		if a.topology != nil {
			both.add(func(ctx context.Context) error { return a.topology.Follow(ctx, g) })
		}
		return both.run(ctx)
	})
	return all.run(open)
}

func (a *archives) distinct() (list []*disk.Archive) {
	for _, archive := range []*disk.Archive{a.topology, a.flows} {
		if archive != nil && !slices.Contains(list, archive) {
			list = append(list, archive)
		}
	}
	return list
}

// source is what queries of an analyzer are asked of.
func (a *archives) source(g *graph.Graph, live query.FlowSource, expire time.Duration) query.Source {
	s := query.Source{
		Graph: g.Snapshot(), Flows: live, FlowExpire: expire,
		Capturable: func(nodeType string) bool { return resource.CaptureTypesOf(nodeType) != nil },
	}
	if a.topology != nil { // an interface that holds a nil pointer is not nil
		s.History = a.topology
		if a.host != "" {
			s.History = ownHistory{a.topology, a.host}
		}
	}
	switch {
	case a.all != nil:
		s.Storage = a.all
	case a.flows != nil:
		s.Storage = a.flows
	}
	return s
}

// status describes the archive, or each where topology and flows have their own; without one it says that there is no history.
func (a *archives) status() any {
	switch {
	case a.topology == nil && a.flows == nil:
		return map[string]string{"State": "off", "Reason": "the storages of analyzer.topology.backend and analyzer.flow.backend keep no history"}
	case a.topology == a.flows || a.flows == nil:
		return a.topology.Status()
	case a.topology == nil:
		return a.flows.Status()
	}
	return map[string]any{"Topology": a.topology.Status(), "Flows": a.flows.Status()}
}

// startupCapture makes the capture of analyzer.startup, unless there is one like it.
func startupCapture(ctx context.Context, cfg *config.Config, store *etcd.Service, log *slog.Logger) error {
	c := cfg.Analyzer.Startup
	if c.CaptureGremlin == "" {
		<-ctx.Done()
		return nil
	}
	select {
	case <-store.Ready():
	case <-ctx.Done():
		return nil
	}
	made, err := ondemand.EnsureCapture(ctx, store, resource.Capture{GremlinQuery: c.CaptureGremlin, BPFFilter: c.CaptureBPF, Type: c.CaptureType})
	switch {
	case err != nil && ctx.Err() == nil:
		log.Error("The capture of analyzer.startup cannot be made", "error", err)
	case made:
		log.Info("The capture of analyzer.startup is made", "query", c.CaptureGremlin)
	}
	<-ctx.Done()
	return nil
}

// streamPackets writes the packets of a capture to w until ctx ends, or the capture does.
func streamPackets(ctx context.Context, store *etcd.Service, live *analyzer.LivePackets, id string, w io.Writer) error {
	key := "/capture/" + id
	if _, _, err := store.Get(ctx, key); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		there, end := false, sync.OnceFunc(func() { close(ended) })
		_ = store.Watch(ctx, key, func(e etcd.Event) { // fails only with the service, and all else then
			switch {
			case e.Key == key:
				if there = e.Value != nil; !there {
					end()
				}
			case e.Synced && !there:
				end()
			}
		})
	})
	return live.Follow(ctx, id, ended, w)
}

// importPcap takes the flows of a pcap file, at the times that it has.
func importPcap(ctx context.Context, flows *analyzer.Flows, o flow.Options, r io.Reader) error {
	return flows.Import(ctx, func(emit func(*flow.Flow)) error {
		_, err := capture.ReadPcap(ctx, r, o, emit)
		return err
	})
}
