package ovsdb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skydive/src/field"
	"skydive/src/graph"
	"skydive/src/openflow"
	"skydive/src/ovs"
	"skydive/src/probe"
)

// OpenflowConfig says whether the rules and groups of bridges are shown, and how bridges are asked for them.
type OpenflowConfig struct {
	Enable   bool
	Versions []string          // that may be spoken: OpenFlow10 to OpenFlow15
	Address  map[string]string // of bridges by name; others are asked through <name>.mgmt beside the socket of the database
	Poll     time.Duration     // time between two readings of the counters of rules
	// TLS returns the certificates for addresses with ssl; nil when none are configured.
	TLS func() *tls.Config
}

var defaultOpenflow = OpenflowConfig{
	Versions: []string{"OpenFlow10", "OpenFlow11", "OpenFlow12", "OpenFlow13", "OpenFlow14"},
	Poll:     10 * time.Second,
}

func (c OpenflowConfig) versions() ([]openflow.Version, error) {
	var all []openflow.Version
	for _, name := range c.Versions {
		v, err := openflow.ParseVersion(name)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// flows follows the rules of bridges. It is used by one goroutine; each bridge has one of its own.
type flows struct {
	*Probe
	ctx     context.Context
	group   *probe.Group
	bridges map[string]*flowBridge // by the ID of their node
	shown   *prometheus.GaugeVec   // rules by bridge
}

func newFlows(p *Probe, ctx context.Context, group *probe.Group) *flows {
	shown := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "skydive_ovsdb_openflow_rules", Help: "OpenFlow rules of a bridge that are shown.",
	}, []string{"bridge"})
	if r := p.env.Registerer; r != nil {
		var before prometheus.AlreadyRegisteredError // of the run before
		if errors.As(r.Register(shown), &before) {
			if same, ok := before.ExistingCollector.(*prometheus.GaugeVec); ok {
				shown = same
			}
		}
	}
	return &flows{Probe: p, ctx: ctx, group: group, bridges: make(map[string]*flowBridge), shown: shown}
}

// bridge follows the rules of a bridge whose node is in the graph.
func (f *flows) bridge(id, name, _ string) {
	if old := f.bridges[id]; old != nil {
		if old.name == name {
			return
		}
		f.gone(id)
	}
	ctx, cancel := context.WithCancel(f.ctx)
	b := &flowBridge{
		flows: f, node: id, name: name, since: time.Now(), cancel: cancel, done: make(chan struct{}),
		rules: make(map[openflow.Key]*shownRule), groups: make(map[uint32]string),
	}
	f.bridges[id] = b
	f.group.Go(func() error {
		defer close(b.done)
		return b.run(ctx)
	})
}

// gone ends that, and takes the rules and groups from the graph.
func (f *flows) gone(id string) {
	b := f.bridges[id]
	if b == nil {
		return
	}
	delete(f.bridges, id)
	b.cancel()
	<-b.done
	if err := b.withdraw(); err != nil {
		f.env.Log.Warn("cannot take out the rules of a bridge", "bridge", b.name, "error", err)
	}
	f.shown.DeleteLabelValues(b.name)
}

// close ends all; what is in the graph stays, unless the probe failed and will start anew.
func (f *flows) close(failed bool) {
	for _, b := range f.bridges {
		b.cancel()
	}
	for id, b := range f.bridges {
		<-b.done
		if failed {
			f.gone(id)
		}
	}
}

// flowBridge is one bridge whose rules are followed.
type flowBridge struct {
	*flows
	node, name string
	since      time.Time
	cancel     context.CancelFunc
	done       chan struct{}

	// All below belongs to the goroutine of run, and to gone and withdraw after its end.
	rules    map[openflow.Key]*shownRule
	groups   map[uint32]string // IDs of their nodes
	version  openflow.Version
	down     bool
	omitted  int
	said     field.Object // under OpenFlow, of the node of the bridge
	failures error        // of the graph: ends the run
}

// run follows the bridge until ctx ends. A bridge that cannot be asked says so in its node; the probe goes on.
func (b *flowBridge) run(ctx context.Context) error {
	client, err := b.client()
	if err != nil {
		b.fail(err)
		<-ctx.Done()
	} else if err = client.Run(ctx); err != nil {
		return err
	}
	return b.failures
}

func (b *flowBridge) client() (*openflow.Client, error) {
	versions, err := b.cfg.Openflow.versions()
	if err != nil {
		return nil, err
	}
	address, err := b.address()
	if err != nil {
		return nil, err
	}
	return openflow.New(openflow.Options{
		Address: address, Versions: versions, TLS: b.cfg.Openflow.TLS, Poll: b.cfg.Openflow.Poll, Handler: b,
	})
}

// address of the bridge. Its socket is beside that of the database.
func (b *flowBridge) address() (string, error) {
	if a := b.cfg.Openflow.Address[b.name]; a != "" {
		return a, nil
	}
	path, ok := ovs.SocketPath(b.cfg.Address)
	if !ok {
		return "", errors.New("the database is not on this host, and ovs.oflow.address does not tell where the bridge is")
	}
	return "unix:" + filepath.Join(filepath.Dir(path), b.name+".mgmt"), nil
}

// Connected is called by the client.
func (b *flowBridge) Connected(v openflow.Version) {
	b.down, b.version = false, v
	b.show(field.Make("Version", v.String()))
}

// creation is how long after its row in the database a bridge may take until it can be asked.
const creation = time.Second

// Disconnected is called by the client.
func (b *flowBridge) Disconnected(err error) {
	if b.version == 0 && time.Since(b.since) < creation {
		return
	}
	b.fail(err)
}

func (b *flowBridge) fail(err error) {
	if !b.down {
		b.env.Log.Info("no OpenFlow connection to a bridge", "bridge", b.name, "error", err)
	}
	b.down = true
	b.show(field.Make("Error", err.Error()))
}

// Changed is called by the client.
func (b *flowBridge) Changed(u openflow.Update) {
	if u.Omitted != b.omitted {
		b.omitted = u.Omitted
		b.show(b.said.Delete("Omitted"))
	}
	b.keep(b.publish(u))
	b.shown.WithLabelValues(b.name).Set(float64(len(b.rules)))
}

// keep remembers the first failure and ends the run.
func (b *flowBridge) keep(err error) {
	if err != nil && b.failures == nil {
		b.failures = fmt.Errorf("rules of bridge %s: %w", b.name, err)
		b.cancel()
	}
}

// show says how the connection is, in the node of the bridge.
func (b *flowBridge) show(m field.Object) {
	if b.omitted > 0 {
		m, _ = m.Set("Omitted", int64(b.omitted)) // cannot fail: the path has one step
	}
	if field.Equal(m, b.said) {
		return
	}
	b.said = m
	b.keep(b.env.Graph.Update("", func(tx *graph.Tx) error {
		n := tx.Node(b.node)
		if n == nil {
			return nil
		}
		all, err := n.Metadata.Set("OpenFlow", m)
		if err != nil {
			return err
		}
		_, err = tx.SetNodeMetadata(b.node, all)
		return err
	}))
}
