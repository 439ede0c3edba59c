package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"sync/atomic"

	"skydive/src/capture"
	"skydive/src/field"
	"skydive/src/ovs"
)

// mtu is that of the interfaces that ports are mirrored to: what is longer gets lost on the way.
const mtu = 9216

// port is the source of a port: the switch mirrors it to an interface.
type port struct {
	s       *Switch
	request capture.Request
	inner   atomic.Pointer[capture.Source] // of the interface; nil before it
}

// Counters implements capture.Source.
func (p *port) Counters() capture.Counters {
	if source := p.inner.Load(); source != nil {
		return (*source).Counters()
	}
	return capture.Counters{}
}

// mirrored is a port that is mirrored, with our rows for it.
type mirrored struct {
	port, bridge         ovs.UUID
	vlans                ovs.Row
	mirror, output, link ovs.UUID // rows of tables Mirror, Port and Interface
	name                 string   // of the interface
}

// Run implements capture.Source.
func (p *port) Run(ctx context.Context, up func(field.Object)) error {
	mark, release := p.s.claim(&p.request)
	defer release()
	if err := p.s.ready(ctx); err != nil {
		return ended(ctx, err)
	}
	m, err := p.s.mirror(ctx, ovs.UUID(p.request.Node.UUID), mark)
	if err != nil {
		return ended(ctx, err)
	}
	err = both(ctx, func(ctx context.Context) error { return p.s.guardMirror(ctx, m) }, func(ctx context.Context) error {
		if err := p.s.plugged(ctx, m); err != nil {
			return err
		}
		index, err := raise(p.request.Node.NetNS, m.name)
		if err != nil {
			return err
		}
		r := p.request
		r.Node.IfIndex = index
		r.Node.Name, r.Node.Type = m.name, "internal"
		source := p.s.o.Interface.New(r)
		p.inner.Store(&source)
		end := func() {}
		defer func() { end() }()
		return source.Run(ctx, func(shown field.Object) {
			if p.s.o.Mirroring != nil {
				end = p.s.o.Mirroring(m.name, p.request.Node.ID)
			}
			up(shown)
		})
	})
	return ended(ctx, err)
}

// ended turns an error that comes of the end into none.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// nameOf returns a name for an interface, of the 15 bytes that the kernel allows.
func nameOf(mark string) string {
	sum := sha256.Sum256([]byte(mark))
	return "mir" + hex.EncodeToString(sum[:6])
}

// mirror puts the rows for a port.
func (s *Switch) mirror(ctx context.Context, port ovs.UUID, mark string) (mirrored, error) {
	m := mirrored{port: port, name: nameOf(mark)}
	s.mu.Lock()
	row := s.tables["Port"][port]
	bridge, found := s.bridgeOf(port)
	m.bridge, m.vlans = bridge, vlans(row)
	s.mu.Unlock()
	switch {
	case row == nil || !found:
		return m, fmt.Errorf("%w: no bridge of Open vSwitch has it", capture.ErrGone)
	case row.MapText("external_ids", markKey) != "":
		return m, &capture.RefusedError{Status: http.StatusBadRequest, Reason: "this is the mirror of a port, of which there is no mirror"}
	}
	link := ovs.Row{"name": m.name, "type": "internal", "external_ids": s.ids(mark)}
	if s.client.Has("Interface", "mtu_request") {
		link["mtu_request"] = int64(mtu)
	}
	output := ovs.Row{"name": m.name, "interfaces": ovs.NamedUUID("link"), "external_ids": s.ids(mark)}
	for column, value := range m.vlans {
		output[column] = value
	}
	results, err := s.client.Transact(ctx,
		ovs.Insert("Interface", "link", link),
		ovs.Insert("Port", "output", output),
		ovs.Insert("Mirror", "mirror", ovs.Row{
			"name": m.name, "select_src_port": port, "select_dst_port": port, "output_port": ovs.NamedUUID("output"), "external_ids": s.ids(mark),
		}),
		ovs.MutateRows("Bridge", []ovs.Mutation{
			ovs.Mutate("ports", "insert", ovs.NamedUUID("output")), ovs.Mutate("mirrors", "insert", ovs.NamedUUID("mirror")),
		}, ovs.Is(bridge)),
		ovs.Comment("skydive: mirror of port "+row.Text("name")),
	)
	if err != nil {
		return m, fmt.Errorf("mirror of port %s: %w", row.Text("name"), err)
	}
	m.link, m.output, m.mirror = results[0].UUID, results[1].UUID, results[2].UUID
	return m, nil
}

// vlans returns the columns by which a port tags packets: a mirror that has the same shows them as the port does.
func vlans(port ovs.Row) ovs.Row {
	row := ovs.Row{"tag": []any{}, "trunks": port.Ints("trunks"), "vlan_mode": []any{}}
	if tag, ok := port.Int("tag"); ok {
		row["tag"] = tag
	}
	if mode := port.Text("vlan_mode"); mode != "" {
		row["vlan_mode"] = mode
	}
	return row
}

// plugged waits until the switch has made the interface.
func (s *Switch) plugged(ctx context.Context, m mirrored) error {
	return s.within(ctx, func() (bool, error) {
		row := s.tables["Interface"][m.link]
		if text := row.Text("error"); text != "" {
			return false, fmt.Errorf("interface %s: %s", m.name, text)
		}
		n, ok := row.Int("ofport")
		return ok && n > 0, nil
	}, func() error {
		return errors.New("the switch has not made the interface of the mirror: does ovs-vswitchd run?")
	})
}

// guardMirror waits until the mirror is not there any more. It follows changes of the VLANs of the port.
func (s *Switch) guardMirror(ctx context.Context, m mirrored) error {
	for {
		err := s.wait(ctx, func() (bool, error) {
			row := s.tables["Port"][m.port]
			if row == nil {
				return false, fmt.Errorf("%w: the port was taken out of Open vSwitch", capture.ErrGone)
			}
			now := vlans(row)
			moved := !reflect.DeepEqual(now, m.vlans)
			m.vlans = now
			return moved, errors.Join(s.there("Mirror", m.mirror), s.there("Port", m.output))
		})
		if err != nil {
			return err
		}
		if _, err := s.client.Transact(ctx, ovs.Update("Port", m.vlans, ovs.Is(m.output))); err != nil {
			return fmt.Errorf("VLANs of the mirror: %w", err)
		}
	}
}
