// Package ovs is a client of OVSDB (RFC 7047), the database protocol of Open vSwitch and OVN: it follows tables and carries out
// transactions.
//
// Rows are dynamic: a database may have columns and tables that this program does not know, or lack some that it asks for, and
// neither stops anything. The client keeps no connection alive by itself: Run ends with the connection, and who calls it decides
// when to try again. It knows nothing of what the tables mean.
package ovs

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

// Options of a client.
type Options struct {
	// Address of the server: unix:///path, unix:path, tcp://host:port, tcp:host:port, ssl:host:port, tls://host:port, or a bare
	// path or host:port. Several, separated by commas, are the members of a cluster: they are tried in turn.
	Address  string
	Database string // such as Open_vSwitch or OVN_Northbound
	// MaxMessage bounds what a server may send at once, in bytes: it takes many times that in memory. 0: 32 MiB.
	MaxMessage int
	// TLS returns what a connection is secured with. Without a ServerName in it the certificate of the server is verified but not
	// whom it was made out to, as Open vSwitch does: its certificates name no host.
	TLS     func() *tls.Config
	Log     *slog.Logger
	Timeout time.Duration // of connecting, of a request, and of a write; 10 s when zero
}

// Table is a table to follow.
type Table struct {
	Name    string
	Columns []string // nil: all the server has
	Exclude []string // columns left out
}

// Batch is what one transaction of the server changed.
type Batch struct {
	// Initial is set in the first batch of each connection: it holds all rows there are, and the consumer forgets what is not in it.
	Initial bool
	Schema  Schema   // of an initial batch: all that the database has
	Changes []Change // ordered by table and UUID
}

// Change is a row before and after. Old is nil in a row that is new, New in one that was deleted.
type Change struct {
	Table    string
	UUID     UUID
	Old, New Row
}

// ErrNotConnected tells that a transaction was asked for while Run had no connection.
var ErrNotConnected = errors.New("not connected to the OVSDB server")

// Client is one connection at a time to one database. Transact and Has may be called from any goroutine.
type Client struct {
	options Options
	timeout time.Duration
	tables  []Table
	handler func(Batch) error
	next    int // address to try first

	mu   sync.Mutex
	conn *connection // nil unless ready
}

const defaultTimeout = 10 * time.Second

// silence, in timeouts, is how long the server may be quiet until it is asked whether it lives.
const silence = 3

// New returns a client that does nothing yet.
func New(o Options) *Client {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	timeout := o.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	return &Client{options: o, timeout: timeout}
}

// Monitor follows tables, all columns that exist of those asked for; without tables, all that there are. It must be called before Run.
// The handler is called by Run, one batch after the other; an error of it ends Run. It must not wait for Transact: the answer could
// not be read.
func (c *Client) Monitor(handler func(Batch) error, tables ...Table) {
	c.handler, c.tables = handler, tables
}

// Run connects and serves until ctx ends, and returns nil then, or until the connection does, and returns why.
func (c *Client) Run(ctx context.Context) error {
	addresses, err := parseAddresses(c.options.Address)
	if err != nil {
		return err
	}
	at := c.next % len(addresses)
	c.next++ // another one when this fails
	a := addresses[at]
	nc, err := c.dial(ctx, a)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("OVSDB server %s: %w", a, err)
	}
	conn := newConnection(c, nc)
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer func() {
		stop()
		nc.Close()
		c.mu.Lock()
		c.conn = nil
		c.mu.Unlock()
		conn.fail()
	}()
	err = conn.serve()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("OVSDB server %s: %w", a, err)
}

// Connected tells whether transactions are possible.
func (c *Client) Connected() bool { return c.ready() != nil }

// Has tells whether the database has a table and a column of it. It has none while there is no connection.
func (c *Client) Has(table, column string) bool {
	conn := c.ready()
	if conn == nil {
		return false
	}
	_, ok := conn.schema[table][column]
	return ok
}

func (c *Client) ready() *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn
}

// connection is one connection; its goroutine is that of Run.
type connection struct {
	*Client
	nc      net.Conn
	schema  Schema
	replica *replica
	asked   bool // an echo request is out because of silence

	write   sync.Mutex // guards writes to nc
	pending sync.Mutex // guards those below
	seq     int64
	calls   map[int64]func(json.RawMessage, error) error // nil once the connection ended
}

func newConnection(c *Client, nc net.Conn) *connection {
	return &connection{Client: c, nc: nc, calls: make(map[int64]func(json.RawMessage, error) error)}
}

// serve reads until the connection ends.
func (c *connection) serve() error {
	if err := c.call("get_schema", []any{c.options.Database}, c.gotSchema); err != nil {
		return err
	}
	wait := c.timeout // for the schema and the tables; then silence is fine
	frames := newFramer(c.nc, cmp.Or(c.options.MaxMessage, usualMessage))
	for {
		if c.ready() != nil {
			wait = silence * c.timeout
			if c.asked {
				wait = c.timeout
			}
		}
		if err := c.nc.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return err
		}
		frame, err := frames.next()
		switch {
		case err == nil:
			c.asked = false
			if err := c.receive(frame); err != nil {
				return err
			}
		case errors.Is(err, os.ErrDeadlineExceeded) && c.ready() != nil && !c.asked:
			c.asked = true
			if err := c.call("echo", []any{}, func(json.RawMessage, error) error { return nil }); err != nil {
				return err
			}
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("no answer within %v", wait)
		default:
			return err
		}
	}
}

// message is any of the three kinds of JSON-RPC 1.0.
type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

func (c *connection) receive(frame []byte) error {
	var m message
	if err := json.Unmarshal(frame, &m); err != nil {
		return fmt.Errorf("message that is no JSON-RPC: %w", err)
	}
	switch m.Method {
	case "":
		return c.answered(m)
	case "echo":
		if len(m.Params) == 0 {
			m.Params = json.RawMessage("[]")
		}
		return c.send(map[string]any{"id": m.ID, "result": m.Params, "error": nil})
	case "update":
		return c.updated(m.Params, (*replica).update1)
	case "update2":
		return c.updated(m.Params, (*replica).update2)
	case "monitor_canceled":
		return errors.New("the server dropped the database")
	}
	return nil // what we did not ask for
}

func (c *connection) answered(m message) error {
	var id int64
	if json.Unmarshal(m.ID, &id) != nil {
		return nil
	}
	c.pending.Lock()
	call := c.calls[id]
	delete(c.calls, id)
	c.pending.Unlock()
	if call == nil {
		return nil // given up
	}
	if len(m.Error) > 0 && string(m.Error) != "null" {
		return call(nil, parseError(m.Error))
	}
	return call(m.Result, nil)
}

// call sends a request; the goroutine of Run calls then with the answer.
func (c *connection) call(method string, params any, then func(json.RawMessage, error) error) error {
	_, err := c.request(method, params, then)
	return err
}

func (c *connection) request(method string, params any, then func(json.RawMessage, error) error) (int64, error) {
	c.pending.Lock()
	if c.calls == nil {
		c.pending.Unlock()
		return 0, ErrNotConnected
	}
	c.seq++
	id := c.seq
	c.calls[id] = then
	c.pending.Unlock()
	err := c.send(map[string]any{"id": id, "method": method, "params": params})
	if err != nil {
		c.forget(id)
		err = fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
	return id, err
}

func (c *connection) forget(id int64) {
	c.pending.Lock()
	defer c.pending.Unlock()
	delete(c.calls, id)
}

// fail answers all that wait for an answer.
func (c *connection) fail() {
	c.pending.Lock()
	calls := c.calls
	c.calls = nil
	c.pending.Unlock()
	for _, then := range calls {
		_ = then(nil, ErrNotConnected) // nobody is left to be told
	}
}

func (c *connection) send(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.write.Lock()
	defer c.write.Unlock()
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	if _, err = c.nc.Write(data); err != nil {
		// Perhaps half of it was sent: the stream is of no use any more.
		c.nc.Close()
	}
	return err
}

func (c *connection) gotSchema(result json.RawMessage, err error) error {
	if err != nil {
		return fmt.Errorf("database %s: %w", c.options.Database, err)
	}
	if c.schema, err = parseSchema(result); err != nil {
		return fmt.Errorf("schema of database %s: %w", c.options.Database, err)
	}
	if c.handler == nil {
		c.start()
		return nil
	}
	c.replica = newReplica(c.schema)
	return c.monitor("monitor_cond")
}

// monitor asks for the tables: in the terse way of newer servers first.
func (c *connection) monitor(method string) error {
	tables := make(map[string]any)
	wanted := c.tables
	if len(wanted) == 0 {
		for name := range c.schema {
			wanted = append(wanted, Table{Name: name})
		}
	}
	for _, t := range wanted {
		if columns := c.schema.columns(t); len(columns) > 0 {
			tables[t.Name] = []any{map[string]any{"columns": columns}}
		} else {
			c.options.Log.Info("database has no such table", "database", c.options.Database, "table", t.Name)
		}
	}
	return c.call(method, []any{c.options.Database, monitorID, tables}, func(result json.RawMessage, err error) error {
		take := (*replica).update2
		if method == "monitor" {
			take = (*replica).update1
		}
		if err != nil {
			if method != "monitor" {
				return c.monitor("monitor")
			}
			return fmt.Errorf("monitor: %w", err)
		}
		changes, err := take(c.replica, result)
		if err != nil {
			return err
		}
		c.start()
		return c.handler(Batch{Initial: true, Schema: c.schema, Changes: changes})
	})
}

const monitorID = "m"

func (c *connection) start() {
	c.Client.mu.Lock()
	defer c.Client.mu.Unlock()
	c.Client.conn = c
}

func (c *connection) updated(params json.RawMessage, take func(*replica, json.RawMessage) ([]Change, error)) error {
	var p []json.RawMessage
	if err := json.Unmarshal(params, &p); err != nil || len(p) < 2 {
		return errors.New("update that cannot be read") // not quoted: it may hold keys
	}
	if c.replica == nil || c.ready() == nil || string(p[0]) != `"`+monitorID+`"` {
		return nil // not ours
	}
	changes, err := take(c.replica, p[1])
	if err != nil || len(changes) == 0 {
		return err
	}
	return c.handler(Batch{Changes: changes})
}
