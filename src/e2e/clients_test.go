package e2e

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// message is what goes over a WebSocket.
type message struct {
	Namespace, Type, UUID string
	Status                int
	Obj                   json.RawMessage
}

// socket is a WebSocket as clients that are not ours make it, written by hand so that no code of ours is on both sides.
type socket struct {
	t        testing.TB
	conn     net.Conn
	mu       sync.Mutex // one frame at a time
	messages chan message
	closed   chan string // why, once
	next     int
}

// connect opens a WebSocket from the host. The answer is returned, too; without 101 there is no socket.
func (h *Host) connect(t testing.TB, addr, path string, header http.Header) (*socket, *http.Response, string) {
	t.Helper()
	conn, err := h.Dial(context.Background(), "tcp", addr)
	need(t, err)
	t.Cleanup(func() { conn.Close() })
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", path, addr)
	for name, values := range header {
		for _, v := range values {
			request += name + ": " + v + "\r\n"
		}
	}
	_, err = io.WriteString(conn, request+"\r\n")
	need(t, err)
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, nil)
	need(t, err)
	if answer.StatusCode != http.StatusSwitchingProtocols {
		text, err := io.ReadAll(answer.Body)
		need(t, err)
		return nil, answer, string(text)
	}
	s := &socket{t: t, conn: conn, messages: make(chan message, 10000), closed: make(chan string, 1)}
	go func() { s.closed <- s.read(in); close(s.messages) }()
	return s, answer, ""
}

const (
	textFrame  = 1
	closeFrame = 8
	pingFrame  = 9
	pongFrame  = 10
)

// frame sends one frame; clients must mask, if only with zeros.
func (s *socket) frame(opcode byte, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	head := binary.BigEndian.AppendUint64([]byte{0x80 | opcode, 0x80 | 127}, uint64(len(payload)))
	if len(payload) < 126 { // as control frames must be
		head = []byte{0x80 | opcode, 0x80 | byte(len(payload))}
	}
	_, err := s.conn.Write(append(append(head, 0, 0, 0, 0), payload...))
	return err
}

// read hands on messages until the server closes, and returns what it said then.
func (s *socket) read(in *bufio.Reader) string {
	var whole []byte
	for {
		var head [2]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err.Error()
		}
		size := uint64(head[1])
		var err error
		switch size {
		case 126:
			var n uint16
			err = binary.Read(in, binary.BigEndian, &n)
			size = uint64(n)
		case 127:
			err = binary.Read(in, binary.BigEndian, &size)
		}
		payload := make([]byte, size)
		if err == nil {
			_, err = io.ReadFull(in, payload)
		}
		if err != nil {
			return err.Error()
		}
		switch head[0] & 0x0f {
		case pingFrame:
			_ = s.frame(pongFrame, payload)
		case closeFrame:
			_ = s.frame(closeFrame, payload)
			return fmt.Sprint(binary.BigEndian.Uint16(payload), " ", string(payload[2:]))
		default:
			if whole = append(whole, payload...); head[0]&0x80 != 0 {
				var m message
				if err := json.Unmarshal(whole, &m); err != nil {
					return fmt.Sprintf("%v: %s", err, whole)
				}
				s.messages <- m
				whole = nil
			}
		}
	}
}

// send sends a message of the namespace Graph as the Python client writes it, and returns its UUID: 32 hexadecimal digits.
func (s *socket) send(typ string, obj any) string {
	s.t.Helper()
	s.next++
	uuid := fmt.Sprintf("%032x", s.next)
	text, err := json.Marshal(map[string]any{"Namespace": "Graph", "Type": typ, "UUID": uuid, "Status": 200, "Obj": obj})
	need(s.t, err)
	need(s.t, s.frame(textFrame, text))
	return uuid
}

// until waits for a message that is asked for; those before it are dropped.
func (s *socket) until(what string, ok func(message) bool) message {
	s.t.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for {
		select {
		case m, open := <-s.messages:
			if !open {
				s.t.Fatalf("waiting for %s: %s", what, <-s.closed)
			}
			if ok(m) {
				return m
			}
		case <-limit.C:
			s.t.Fatalf("no %s within 10s", what)
		}
	}
}

// sync asks for the graph and returns the answer.
func (s *socket) sync(obj any) message {
	s.t.Helper()
	uuid := s.send("SyncRequest", obj)
	return s.until("SyncReply", func(m message) bool { return m.Type == "SyncReply" && m.UUID == uuid })
}

// graph decodes the answer to a SyncRequest.
func (m message) graph(t testing.TB) (g Graph) {
	t.Helper()
	if m.Namespace != "Graph" || m.Status != 200 {
		t.Fatalf("%s %s %d: %s", m.Namespace, m.Type, m.Status, m.Obj)
	}
	need(t, json.Unmarshal(m.Obj, &g))
	return g
}

// event waits for events about nodes of all these names, in any order, and returns the last.
func (s *socket) event(typ string, names ...string) Element {
	s.t.Helper()
	var e Element
	s.until(fmt.Sprint(typ, " of ", names), func(m message) bool {
		if m.Type == typ {
			e = Element{}
			need(s.t, json.Unmarshal(m.Obj, &e))
			names = slices.DeleteFunc(names, func(name string) bool { return e.Metadata["Name"] == name })
		}
		return len(names) == 0
	})
	return e
}

// leave closes as a client does, and waits for the answer of the server.
func (s *socket) leave() {
	s.t.Helper()
	need(s.t, s.frame(closeFrame, []byte{3, 232}))
	select {
	case why := <-s.closed:
		if !strings.HasPrefix(why, "1000 ") {
			s.t.Errorf("closed with %q", why)
		}
	case <-time.After(10 * time.Second):
		s.t.Error("the server does not answer the close")
	}
}

// python imitates the RESTClient and the WSClient of the Python library skydive-client: a login, then its cookies.
type python struct {
	t              testing.TB
	from           *Host
	addr           string
	user, password string
	cookie         string // authtoken
}

func (p *python) login() error {
	form := url.Values{"username": {p.user}, "password": {p.password}}
	client := p.from.HTTP()
	defer client.CloseIdleConnections()
	res, err := client.PostForm("http://"+p.addr+"/login", form)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != 200 {
		return fmt.Errorf("%d %s", res.StatusCode, text)
	}
	for _, c := range res.Cookies() {
		if c.Name == "authtoken" {
			p.cookie = c.Value
		}
	}
	return nil
}

// request returns the decoded JSON of a success, as the library does when the type says so, and its text otherwise.
func (p *python) request(method, path string, body any) (any, error) {
	in := ""
	if body != nil {
		text, err := json.Marshal(body)
		need(p.t, err)
		in = string(text)
	}
	req, err := http.NewRequest(method, "http://"+p.addr+path, strings.NewReader(in))
	need(p.t, err)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Content-Type", "application/json")
	if p.cookie != "" {
		req.Header.Set("Cookie", "authtoken="+p.cookie)
	}
	client := p.from.HTTP()
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	need(p.t, err)
	if res.StatusCode >= 400 {
		return nil, fmt.Errorf("%d %s", res.StatusCode, text)
	}
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") {
		return string(text), nil
	}
	var v any
	return v, json.Unmarshal(text, &v)
}

// lookup asks a Gremlin question and returns the elements of the answer.
func (p *python) lookup(query string) ([]any, error) {
	v, err := p.request("POST", "/api/topology", map[string]string{"GremlinQuery": query})
	list, ok := v.([]any)
	if err == nil && !ok {
		err = fmt.Errorf("%s: not a JSON list but %v", query, v)
	}
	return list, err
}

// found waits until a question has an answer of n elements.
func (p *python) found(n int, query string) []any {
	p.t.Helper()
	var list []any
	need(p.t, Until(10*time.Second, func() (err error) {
		if list, err = p.lookup(query); err == nil && len(list) != n {
			err = fmt.Errorf("%s: %d elements, want %d", query, len(list), n)
		}
		return err
	}))
	return list
}

// socket connects with the headers of the WSClient.
func (p *python) socket(path, hostID, filter string, persistent bool) *socket {
	p.t.Helper()
	h := http.Header{"X-Host-ID": {hostID}, "X-Client-Type": {"skydive-python-client"}, "X-Client-Protocol": {"json"}, "X-Persistence-Policy": {"Persistent"}}
	if !persistent {
		h.Set("X-Persistence-Policy", "DeleteOnDisconnect")
	}
	if filter != "" {
		h.Set("X-Gremlin-Filter", filter)
	}
	if p.cookie != "" {
		h.Set("Cookie", "authtoken="+p.cookie)
	}
	s, answer, text := p.from.connect(p.t, p.addr, path, h)
	if s == nil {
		p.t.Fatalf("%s: %d %s", path, answer.StatusCode, text)
	}
	if answer.Header.Get("X-Host-ID") == "" || answer.Header.Get("X-Service-Type") == "" {
		p.t.Errorf("%s: the server does not say who it is: %v", path, answer.Header)
	}
	return s
}

// people is an analyzer configuration that asks for credentials.
const people = "auth: {people: {type: basic, users: {Alice: Top-Secret, guy: Gast}}}\nrbac: {policy: ['g, guy, guest']}\n"

// startClosed starts an analyzer with more below analyzer.auth, which does not answer strangers.
func startClosed(t testing.TB, h *Host, below, extra string) *Process {
	t.Helper()
	p, err := h.Start(fmt.Sprintf("host_id: %s\nanalyzer: {listen: 0.0.0.0:8082, auth: {%s}}\netcd: {data_dir: %s/etcd}\n%s", h.Name, below, h.Dir, extra), "analyzer")
	need(t, err)
	need(t, Until(20*time.Second, func() error { return p.alive(h.get(h.analyzerAddr(), "/readyz")) }))
	return p
}

// TestRootPythonClient walks through what scripts with the Python library do: login, cookie, REST, publish, listen.
func TestRootPythonClient(t *testing.T) {
	l := newLab(t)
	an, h := addHost(t, l, "an"), addHost(t, l, "h1")
	startClosed(t, an, "api: {backend: people}", quick+people)
	startAgent(t, h, an, quick)

	p := &python{t: t, from: h, addr: an.analyzerAddr(), user: "Alice", password: "wrong"}
	if _, err := p.lookup("G"); err == nil || !strings.HasPrefix(err.Error(), "401") {
		t.Errorf("without a login: %v", err)
	}
	if err := p.login(); err == nil || !strings.Contains(err.Error(), "401 Wrong credentials") {
		t.Errorf("wrong password: %v", err)
	}
	p.password = "Top-Secret"
	need(t, p.login())
	if p.cookie == "" {
		t.Fatal("no cookie authtoken")
	}
	p.found(1, "G.V().Has('Type','host','Name','h1')")

	t.Run("REST", func(t *testing.T) {
		p.t = t
		for _, kind := range []string{"capture", "alert", "noderule", "edgerule", "injectpacket", "workflow"} {
			if v, err := p.request("GET", "/api/"+kind, nil); err != nil || len(v.(map[string]any)) != 0 {
				t.Errorf("list of %s: %v %v", kind, v, err)
			}
		}
		if _, err := p.request("POST", "/api/capture", map[string]any{"GremlinQuery": "G.V(", "LayerKeyMode": "L2", "PollingInterval": 10, "SamplingRate": 1}); err == nil || !strings.Contains(err.Error(), "400 GremlinQuery: Not a valid Gremlin expression") {
			t.Errorf("capture with a broken query: %v", err)
		}
		node := map[string]any{"ID": "rest-node", "Host": "h1", "Metadata": map[string]any{"Name": "tor", "Type": "switch"}}
		if _, err := p.request("POST", "/api/node", node); err != nil {
			t.Error(err)
		}
		if _, err := p.request("POST", "/api/node", node); err == nil || !strings.Contains(err.Error(), "Node ID conflict") {
			t.Errorf("the same node again: %v", err)
		}
		patch := []any{map[string]any{"op": "add", "path": "/Metadata/Rack", "value": "r1"}}
		if v, err := p.request("PATCH", "/api/node/rest-node", patch); err != nil || v.(map[string]any)["Metadata"].(map[string]any)["Rack"] != "r1" {
			t.Errorf("%v %v", v, err)
		}
		v, err := p.request("GET", "/api/node", nil)
		if nodes, ok := v.(map[string]any); err != nil || !ok || nodes["rest-node"] == nil {
			t.Errorf("list of nodes: %v", err)
		}
		if v, err := p.request("DELETE", "/api/node/rest-node", nil); err != nil || v != "" {
			t.Errorf("the body of a deletion is handed out as it is: %q %v", v, err)
		}
	})

	t.Run("publish", func(t *testing.T) {
		p.t = t
		listener := p.socket("/ws/subscriber", "listener", "", true)
		g := listener.sync(map[string]any{"GremlinFilter": ""}).graph(t)
		if len(g.Nodes) < 2 || len(g.Edges) == 0 {
			t.Errorf("%d nodes, %d edges", len(g.Nodes), len(g.Edges))
		}
		s := p.socket("/ws/publisher", "script", "", true)
		s.send("NodeAdded", map[string]any{"ID": "py1", "Host": "h1", "Metadata": map[string]any{"Name": "one", "Type": "device", "Disks": []any{map[string]any{"Size": 5}}}})
		s.send("NodeAdded", map[string]any{"ID": "py2", "Host": "h1", "Metadata": map[string]any{"Name": "two", "Type": "device"}})
		s.send("EdgeAdded", map[string]any{"ID": "pye", "Host": "h1", "Parent": "py1", "Child": "py2", "Metadata": map[string]any{"RelationType": "layer2"}})
		s.send("NodeAdded", map[string]any{"ID": "incomplete", "Host": "h1", "Metadata": map[string]any{"Name": "no type"}})
		if e := listener.event("NodeAdded", "one"); e.ID != "py1" || e.Origin != "skydive-python-client.script" || e.Host != "h1" {
			t.Errorf("%+v", e)
		}
		listener.event("NodeAdded", "two")
		// It knows of no revisions, and means what it says all the same.
		s.send("NodeUpdated", map[string]any{"ID": "py2", "Host": "h1", "Metadata": map[string]any{"Name": "two", "Type": "device", "State": "UP"}})
		if e := listener.event("NodeUpdated", "two"); e.Metadata["State"] != "UP" {
			t.Errorf("%+v", e)
		}
		s.send("NodePartiallyUpdated", map[string]any{"ID": "py2", "UpdatedAt": 1700000000000, "Revision": 50,
			"Ops": []any{map[string]any{"Type": 1, "Key": "Deep.Key", "Value": 7}, map[string]any{"Type": 2, "Key": "State", "Value": nil}}})
		if e := listener.event("NodeUpdated", "two"); e.Revision != 50 || e.Metadata["State"] != nil || fmt.Sprint(e.Metadata["Deep"]) != "map[Key:7]" {
			t.Errorf("%+v", e)
		}
		if g := s.sync(map[string]any{}).graph(t); len(g.Nodes) < 4 { // a publisher may ask, too
			t.Errorf("%d nodes", len(g.Nodes))
		}
		s.leave()
		p.found(1, "G.V().Has('Disks.Size', 5).Out('Name','two')")
		p.found(0, "G.V().Has('Name','no type')")
		s = p.socket("/ws/publisher", "script", "", true) // comes back at once
		s.send("NodeDeleted", map[string]any{"ID": "py1", "Host": "h1", "Metadata": map[string]any{}})
		listener.event("NodeDeleted", "one")
		s.leave()
		p.found(0, "G.E().Has('RelationType','layer2','@ID','pye')")
		listener.leave()
	})

	t.Run("DeleteOnDisconnect", func(t *testing.T) {
		p.t = t
		s := p.socket("/ws/publisher", "guest", "", false)
		s.send("NodeAdded", map[string]any{"ID": "gone", "Host": "h1", "Metadata": map[string]any{"Name": "gone", "Type": "device"}})
		p.found(1, "G.V('gone')")
		s.leave()
		p.found(0, "G.V().Has('Name','gone')")
	})

	t.Run("listen", func(t *testing.T) {
		p.t = t
		filter := "G.V().Has('Name', Regex('watched.*')).SubGraph()"
		s := p.socket("/ws/subscriber", "watcher", filter, true)
		if g := s.sync(map[string]any{}).graph(t); len(g.Nodes) != 0 {
			t.Errorf("%d nodes through the filter", len(g.Nodes))
		}
		script(t, h, "ip link add watched1 type veth peer name watched2; ip link set watched1 up")
		s.event("NodeAdded", "watched1", "watched2")
		script(t, h, "ip link del watched1")
		s.event("NodeDeleted", "watched2")
		for obj, want := range map[string]string{
			`{"GremlinFilter": "G.V("}`:  "Invalid Gremlin filter 'G.V(' for client watcher",
			`{"GremlinFilter": "G.V()"}`: "did not return a graph",
		} {
			if m := s.sync(json.RawMessage(obj)); m.Status != 400 || !strings.Contains(string(m.Obj), want) {
				t.Errorf("%s: %d %s", obj, m.Status, m.Obj)
			}
		}
		if g := s.sync(json.RawMessage(`{"Time": 1700000000000}`)).graph(t); len(g.Nodes) != 0 {
			t.Errorf("%d nodes before there was anything", len(g.Nodes))
		}
		if g := s.sync(map[string]any{"GremlinFilter": ""}).graph(t); len(g.Nodes) == 0 {
			t.Error("an empty filter shows everything")
		}
		s.leave()
		for filter, want := range map[string]string{"G.V()": "1000 X-Gremlin-Filter: Gremlin query 'G.V()' did not return a graph", "G.V(": "1000 X-Gremlin-Filter:"} {
			s := p.socket("/ws/subscriber", "watcher", filter, true)
			select {
			case why := <-s.closed:
				if !strings.HasPrefix(why, want) {
					t.Errorf("filter %s: closed with %q, want %q", filter, why, want)
				}
			case <-time.After(10 * time.Second):
				t.Errorf("filter %s is taken", filter)
			}
		}
	})

	t.Run("namespaces", func(t *testing.T) {
		p.t = t
		h := http.Header{"X-Client-Type": {"test"}, "X-Websocket-Namespace": {"Alert"}, "Cookie": {"authtoken=" + p.cookie}}
		deaf, _, _ := p.from.connect(t, p.addr, "/ws/subscriber", h)
		h["X-Websocket-Namespace"] = []string{"Alert", "Graph"}
		hears, _, _ := p.from.connect(t, p.addr, "/ws/subscriber", h)
		hears.sync(map[string]any{})
		deaf.send("SyncRequest", map[string]any{})
		script(t, p.from, "ip link add heard type veth peer name heard2")
		hears.event("NodeAdded", "heard")
		deaf.leave()
		for m := range deaf.messages {
			t.Errorf("it did not ask for the namespace of %s %s", m.Namespace, m.Type)
		}
	})

	t.Run("on the agent", func(t *testing.T) {
		local := &python{t: t, from: h, addr: agentAddr}
		s := local.socket("/ws/publisher", "local", "", true)
		s.send("NodeAdded", map[string]any{"ID": "local", "Host": "", "Metadata": map[string]any{"Name": "local", "Type": "device"}})
		local.found(1, "G.V('local')")
		p.t = t
		p.found(1, "G.V('local').Has('@Host','h1')") // and from there to the analyzer
		s.leave()
	})
}

// uuid5 names an element as the Ansible modules do: UUIDv5 in the namespace of object identifiers (RFC 9562 §5.5).
func uuid5(name string) string {
	oid := []byte{0x6b, 0xa7, 0xb8, 0x12, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8}
	u := sha1.Sum(append(oid, name...))
	u[6], u[8] = u[6]&0x0f|0x50, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// TestRootAnsibleModules does what skydive_node, skydive_edge and skydive_query send, twice, as a playbook that runs again does.
func TestRootAnsibleModules(t *testing.T) {
	l := newLab(t)
	an := addHost(t, l, "an")
	analyzer := startClosed(t, an, "api: {backend: people}", quick+people)
	p := &python{t: t, from: an, addr: "127.0.0.1:8082", user: "Alice", password: "Top-Secret"}
	need(t, p.login())
	node := func(pid int, name, typ string, metadata map[string]any) string {
		s := p.socket("/ws/publisher", fmt.Sprintf("ansible-%d-an", pid), "", true)
		id := uuid5(name + ":" + typ)
		metadata["Name"], metadata["Type"] = name, typ
		s.send("NodeAdded", map[string]any{"ID": id, "Host": "an", "Metadata": metadata})
		s.leave()
		return id
	}
	one := func(query string) string { // exactly one node, else the module fails
		return p.found(1, query)[0].(map[string]any)["ID"].(string)
	}
	for run := range 2 {
		tor := node(100+run, "TOR1", "fabric", map[string]any{"Model": "x", "Ports": 48})
		port := node(200+run, "PORT1", "fabricport", map[string]any{})
		if got := one("G.V().Has('Name','TOR1','Type','fabric')"); got != tor {
			t.Errorf("id %s, want %s", got, tor)
		}
		from, to := one("G.V().Has('Name','TOR1')"), one("g.V().Has('Name','PORT1')")
		if to != port {
			t.Errorf("id %s, want %s", to, port)
		}
		s := p.socket("/ws/publisher", fmt.Sprintf("ansible-%d-an", 300+run), "", true)
		id := uuid5(from + ":" + to + ":ownership")
		s.send("EdgeAdded", map[string]any{"ID": id, "Host": "an", "Parent": from, "Child": to, "Metadata": map[string]any{"RelationType": "ownership"}})
		s.leave()
		if got := p.found(1, "G.V().Has('Name','TOR1').OutE('RelationType','ownership')")[0].(map[string]any)["ID"]; got != id {
			t.Errorf("edge %v, want %s", got, id)
		}
	}
	p.found(2, "G.V().Has('Type', Within('fabric','fabricport'))")

	// Two modules at a time with one identity: the second is told so instead of being left hanging.
	first := p.socket("/ws/publisher", "ansible-1-an", "", true)
	header := http.Header{"X-Host-ID": {"ansible-1-an"}, "X-Client-Type": {"skydive-python-client"}, "Cookie": {"authtoken=" + p.cookie}}
	if s, answer, text := an.connect(t, p.addr, "/ws/publisher", header); s != nil || answer.StatusCode != 409 || !strings.Contains(text, "ansible-1-an") {
		t.Errorf("%v %s", answer, text)
	}
	first.leave()
	if s, answer, text := an.connect(t, p.addr, "/ws/publisher", header); s == nil {
		t.Errorf("still refused after the first has left: %v %s", answer, text)
	}
	if strings.Contains(analyzer.Output(), "Top-Secret") || strings.Contains(analyzer.Output(), base64.StdEncoding.EncodeToString([]byte("Alice:Top-Secret"))) {
		t.Error("the log shows a password")
	}
}
