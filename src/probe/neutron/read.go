package neutron

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Only what is shown is asked for.
const (
	portFields     = "id name tenant_id network_id mac_address fixed_ips device_id device_owner binding:host_id revision_number updated_at"
	portState      = "id mac_address revision_number updated_at"
	networkFields  = "id name tenant_id provider:segmentation_id segments"
	subnetFields   = "id cidr"
	routerFields   = "id name tenant_id"
	floatingFields = "id floating_ip_address port_id"
)

// query asks for fields of what has one of the values of a key; of everything when there are too many for one request, or none.
func query(fields, key string, of set) url.Values {
	values := url.Values{"fields": strings.Fields(fields)}
	if len(of) > 0 && len(of) <= few {
		values[key] = slices.Sorted(maps.Keys(of))
	}
	return values
}

const (
	// few is how many identifiers go into one request, whose line servers want below 8 KiB. For more the whole collection is read.
	few = 150
	// seldom is how many looks pass between two at what hardly ever changes: networks, subnets and routers.
	seldom = 4
	// projectsAge is how old names of projects get.
	projectsAge = time.Hour
)

// wanted is what nodes look as if they had it.
type wanted struct {
	ports    set // by identifier
	macs     set // ports by address
	networks set // besides those of the ports
	routers  set
}

type set map[string]struct{}

func (s *set) add(text string) {
	if *s == nil {
		*s = make(set)
	}
	(*s)[text] = struct{}{}
}

func (s set) has(text string) bool { _, ok := s[text]; return ok }

func (w *wanted) sets() [4]*set { return [4]*set{&w.ports, &w.macs, &w.networks, &w.routers} }

func (w *wanted) empty() bool {
	return len(w.ports)+len(w.macs)+len(w.networks)+len(w.routers) == 0
}

// question is what the reader is to ask.
type question struct {
	want  wanted
	fresh wanted // of it what is new
	all   bool   // about what is known already, too
}

// reader keeps an inventory up to date. It belongs to one goroutine.
type reader struct {
	cloud    *cloud
	last     *inventory
	turn     int
	projects time.Time // when their names were read
	denied   bool      // or rather refused
}

// read asks for what the question needs. lacks tells what could not be read besides the ports, of which the last state then stays.
func (r *reader) read(ctx context.Context, q question) (known *inventory, lacks string, err error) {
	last := r.last
	if last == nil {
		last = new(inventory)
	}
	next := &inventory{ports: make(map[string]*port), byMAC: make(map[string][]*port)}
	if err := r.ports(ctx, q, last, next); err != nil {
		return nil, "", err
	}
	old := q.all && r.turn%seldom == 0
	if q.all {
		r.turn++
	}
	var networks, subnets, routers, owners, news, tenants set
	for id := range q.want.networks {
		networks.add(id)
	}
	for id := range q.want.routers {
		routers.add(id)
	}
	for id, p := range next.ports {
		networks.add(p.Network)
		for _, f := range p.Fixed {
			subnets.add(f.Subnet)
		}
		if p.ofRouter() {
			routers.add(p.Device)
		}
		owners.add(id)
		if last.ports[id] == nil {
			news.add(id)
		}
	}
	var troubles []string
	note := func(err error) {
		if err != nil && !slices.Contains(troubles, err.Error()) {
			troubles = append(troubles, err.Error())
		}
	}
	next.networks, err = update(ctx, r.cloud, "networks", networkFields, networks, last.networks, old, func(n *network) string { return n.ID })
	note(err)
	next.subnets, err = update(ctx, r.cloud, "subnets", subnetFields, subnets, last.subnets, old, func(s *subnet) string { return s.ID })
	note(err)
	next.routers, err = update(ctx, r.cloud, "routers", routerFields, routers, last.routers, old, func(r *router) string { return r.ID })
	if !refused(err, http.StatusNotFound) { // a cloud without routers
		note(err)
	}
	if q.all {
		news = owners
	}
	next.floating, err = r.floating(ctx, news, owners, last.floating)
	note(err)
	for _, p := range next.ports {
		tenants.add(p.Tenant)
	}
	for _, n := range next.networks {
		tenants.add(n.Tenant)
	}
	for _, n := range next.routers {
		tenants.add(n.Tenant)
	}
	next.projects, err = r.names(ctx, tenants, last.projects)
	note(err)
	if ctx.Err() != nil {
		return nil, "", ctx.Err()
	}
	r.last = next
	return next, strings.Join(troubles, "; "), nil
}

// ports finds the wanted ports. Few are asked for by what is known of them. When there are many, all that the cloud has are listed, but
// of those that have not changed nothing except that they are there.
func (r *reader) ports(ctx context.Context, q question, last, next *inventory) error {
	keep := func(p *port) {
		if next.ports[p.ID] != nil {
			return
		}
		if mac := strings.ToLower(p.MAC); mac != p.MAC { // what is known already is others' to read
			p.MAC = mac
		}
		next.ports[p.ID] = p
		next.byMAC[p.MAC] = append(next.byMAC[p.MAC], p)
	}
	// What is known and still wanted, and what of it is to be asked for.
	ids, macs := q.fresh.ports, q.fresh.macs
	if q.all {
		ids, macs = maps.Clone(q.want.ports), maps.Clone(q.want.macs)
	}
	known := make(map[string]*port)
	for id, p := range last.ports {
		if q.want.ports.has(id) || q.want.macs.has(p.MAC) {
			known[id] = p
			if q.all {
				ids.add(id)
				delete(macs, p.MAC)
				delete(macs, tapMAC(p.MAC))
			}
		}
	}
	ask := func(fields, key string, of set, keep func(*port)) error {
		return list(ctx, r.cloud, "ports", query(fields, key, of), func(p *port) string { return p.ID }, keep)
	}
	if len(ids) <= few && len(macs) <= few {
		if q.want.empty() { // to see that Neutron answers
			return r.cloud.get(ctx, "ports", "ports?fields=id&limit=1", &struct{ Ports []port }{})
		}
		if len(ids) > 0 {
			if err := ask(portFields, "id", ids, keep); err != nil {
				return err
			}
		}
		if len(macs) > 0 {
			if err := ask(portFields, "mac_address", macs, keep); err != nil {
				return err
			}
		}
		if !q.all {
			for _, p := range known {
				keep(p)
			}
		}
		return nil
	}
	wanted := func(p *port) bool { return q.want.ports.has(p.ID) || q.want.macs.has(strings.ToLower(p.MAC)) }
	everything := func() error {
		clear(next.ports)
		clear(next.byMAC)
		return ask(portFields, "", nil, func(p *port) {
			if wanted(p) {
				keep(p)
			}
		})
	}
	strange := 0
	for id := range ids {
		if known[id] == nil {
			strange++
		}
	}
	if strange > few || len(known) == 0 {
		return everything()
	}
	var changed set
	err := ask(portState, "", nil, func(p *port) {
		if !wanted(p) {
			return
		}
		if old := known[p.ID]; old != nil && old.Revision == p.Revision && old.Updated == p.Updated && (p.Revision != 0 || p.Updated != "") {
			keep(old)
		} else {
			changed.add(p.ID)
		}
	})
	switch {
	case err != nil || len(changed) == 0:
		return err
	case len(changed) > few:
		return everything()
	}
	return ask(portFields, "id", changed, keep)
}

// update returns the elements of a collection that are needed: those that are not known are asked for, or all of them.
func update[T any](ctx context.Context, c *cloud, resource, fields string, need set, last map[string]*T, all bool, id func(*T) string) (map[string]*T, error) {
	delete(need, "")
	next := make(map[string]*T, len(need))
	ask := need
	if !all {
		ask = nil
		for key := range need {
			if known := last[key]; known != nil {
				next[key] = known
			} else {
				ask.add(key)
			}
		}
	}
	if len(ask) == 0 {
		return next, nil
	}
	err := list(ctx, c, resource, query(fields, "id", ask), id, func(item *T) {
		if key := id(item); ask.has(key) {
			next[key] = item
		}
	})
	if err != nil {
		for key := range need {
			if known := last[key]; known != nil {
				next[key] = known
			}
		}
	}
	return next, err
}

// floating returns the floating addresses of all ports, after asking for those of some.
func (r *reader) floating(ctx context.Context, ask, all set, last map[string][]string) (map[string][]string, error) {
	next := make(map[string][]string)
	for id := range all {
		if known := last[id]; known != nil && !ask.has(id) {
			next[id] = known
		}
	}
	if len(ask) == 0 {
		return next, nil
	}
	found := make(map[string][]string)
	err := list(ctx, r.cloud, "floatingips", query(floatingFields, "port_id", ask), func(f *floatingIP) string { return f.ID }, func(f *floatingIP) {
		if ask.has(f.Port) && f.Address != "" {
			found[f.Port] = append(found[f.Port], f.Address)
		}
	})
	if err != nil {
		if refused(err, http.StatusNotFound) { // a cloud without them
			return next, nil
		}
		for id := range ask {
			if known := last[id]; known != nil {
				next[id] = known
			}
		}
		return next, err
	}
	for id, addresses := range found {
		slices.Sort(addresses)
		next[id] = addresses
	}
	return next, nil
}

// names returns the names of projects. Keystone shows them to few, hence a refusal is no trouble, and is believed for a while.
func (r *reader) names(ctx context.Context, need set, last map[string]string) (map[string]string, error) {
	missing := false
	for id := range need {
		_, known := last[id]
		missing = missing || !known
	}
	age := projectsAge
	if missing && !r.denied {
		age /= 60 // not at once, as there may be projects that Keystone does not show
	}
	if len(need) == 0 || time.Since(r.projects) < age {
		return last, nil
	}
	next := make(map[string]string)
	err := list(ctx, r.cloud, "projects", url.Values{}, func(p *project) string { return p.ID }, func(p *project) {
		if need.has(p.ID) {
			next[p.ID] = p.Name
		}
	})
	r.denied = refused(err, http.StatusForbidden, http.StatusUnauthorized, http.StatusNotFound)
	if r.denied {
		err, next = nil, last
	}
	if err != nil {
		return last, err
	}
	r.projects = time.Now()
	return next, nil
}
