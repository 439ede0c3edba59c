package config

import "time"

// Config is everything Skydive can be told. The tags are the only place where
// a key is spelled, described and given its default: decoding, checks, names
// of environment variables, the reference and the sample all come from them.
//
//	yaml      last part of the key; "<name>" levels are maps of sections
//	default   YAML text of the default; "$hostname" is the name of the host
//	doc       one sentence for the reference
//	unit      unit of a number; a time.Duration is read as whole seconds or as "90s"
//	min       smallest number accepted (0 when absent)
//	oneof     accepted words, separated by "|"; case does not matter
//	secret    "true": never shown by Get and Dump
type Config struct {
	HostID string `yaml:"host_id" default:"$hostname" doc:"Identity of this host in the graph and among agents and analyzers. It must be unique."`
	// Analyzers is nil when nobody set it, and empty but not nil when it was
	// set to nothing (a stand-alone agent); see AnalyzerAddresses.
	Analyzers []Address          `yaml:"analyzers" doc:"Analyzers that agents report to, and that analyzers replicate with. Unset means 127.0.0.1:8082; an empty list means stand-alone."`
	Analyzer  Analyzer           `yaml:"analyzer" doc:"The analyzer."`
	Agent     Agent              `yaml:"agent" doc:"The agent."`
	Auth      map[string]Auth    `yaml:"auth" doc:"Authentication backends, each under a name of your choice. The sections noauth, basic and keystone exist from the start."`
	OVS       OVS                `yaml:"ovs" doc:"Open vSwitch, for the probe ovsdb and captures on its bridges and ports."`
	RBAC      RBAC               `yaml:"rbac" doc:"Who may do what (casbin)."`
	TLS       TLS                `yaml:"tls" doc:"Certificates. With a server certificate and its key (or all of ca_cert, client_cert and client_key) the service serves TLS only, and connects with TLS only."`
	HTTP      HTTP               `yaml:"http" doc:"HTTP and WebSocket connections."`
	Flow      Flow               `yaml:"flow" doc:"Flows: how packets become flows, and how flows travel."`
	Logging   Logging            `yaml:"logging" doc:"Logs."`
	Etcd      Etcd               `yaml:"etcd" doc:"etcd, which holds captures, alerts, rules and policies. One analyzer needs nothing here."`
	Storage   map[string]Storage `yaml:"storage" doc:"Storages of topology and flow history, each under a name of your choice. The section memory exists from the start."`
	UI        map[string]any     `yaml:"ui" default:"{}" doc:"Settings of the web page, free-form. Known entries: theme (dark or light), extra_assets (directory), topology.favorites (map of names to Gremlin expressions), topology.default_filter, topology.default_highlight, bandwidth_update_rate (seconds), bandwidth_threshold (absolute or relative), bandwidth_absolute_active, bandwidth_absolute_warning, bandwidth_absolute_alert (Mbit/s), bandwidth_relative_active, bandwidth_relative_warning, bandwidth_relative_alert (0 to 1), k8s_enabled, ssh_enabled, bpf.favorites (map)."`

	values map[string]value // every key that has a value, section names filled in
	order  []string         // the keys of values in the order of the reference
	checks map[string]func(*Config) error
}

// Analyzer holds the keys below analyzer.
type Analyzer struct {
	Listen   Address `yaml:"listen" default:"127.0.0.1:8082" doc:"Address of the API, the web page and the agents' connections. Without a host it is 127.0.0.1; write 0.0.0.0:8082 to be reached from outside."`
	Auth     AnalyzerAuth
	Cluster  string         `yaml:"cluster" doc:"Name of this cluster of analyzers, which analyzer.peers needs."`
	Peers    map[string]any `yaml:"peers" default:"{}" secret:"true" doc:"Other clusters to exchange topology with: map of their names to {endpoints: list of host:port, subscribe_filter: Gremlin expression of what to take from there (* for all), publish_filter: k=v,… of the metadata of nodes to send there (* for all), username, password}."`
	Topology AnalyzerTopology
	Flow     AnalyzerFlow
	Startup  struct {
		CaptureGremlin string `yaml:"capture_gremlin" doc:"Gremlin expression of a capture made at start, such as G.V().Has('Type', 'veth')."`
		CaptureBPF     string `yaml:"capture_bpf" doc:"BPF filter of that capture."`
		CaptureType    string `yaml:"capture_type" doc:"Type of that capture, such as afpacket; the default of each node's type when empty."`
	}
}

// AnalyzerAuth holds the keys below analyzer.auth.
type AnalyzerAuth struct {
	API struct {
		Backend string `yaml:"backend" default:"noauth" doc:"Section of auth that decides who may use the API, the web page and the subscriber connections."`
	}
	Cluster struct {
		Backend  string `yaml:"backend" default:"noauth" doc:"Section of auth that decides which agents and analyzers may connect."`
		Username string `yaml:"username" doc:"User name shown to the other analyzers."`
		Password string `yaml:"password" secret:"true" doc:"Password shown to the other analyzers."`
	}
}

// AnalyzerTopology holds the keys below analyzer.topology.
type AnalyzerTopology struct {
	Backend string   `yaml:"backend" default:"disk" doc:"Section of storage that keeps the history of the topology. With memory there is none."`
	Probes  []string `yaml:"probes" default:"[]" doc:"Topology probes that the analyzer runs besides fabric and peering, which always run: ovn. Of several analyzers the elected one runs them. A probe that this version or this host lacks is reported as absent and stops nothing."`
	Fabric  []string `yaml:"fabric" default:"[]" doc:"Rules that describe the physical network: \"A[k=v, …] -> [k=v] B[…]\" makes A own B and links them on layer 2, --> only links them. *[Type=host,Name=h1]/eth0 is a node that an agent reports. All analyzers need the same."`
	OVN     struct {
		Address string `yaml:"address" default:"unix:///var/run/ovn/ovnnb_db.sock" doc:"Address of the OVN northbound database: unix:///path, tcp:host:port or ssl:host:port; of the members of a cluster all, separated by commas."`
		Cert    string `yaml:"cert" doc:"Certificate shown to OVN (PEM)."`
		Key     string `yaml:"key" doc:"Private key of cert (PEM)."`
		CACert  string `yaml:"cacert" doc:"Certificates of the authorities that signed OVN's certificate (PEM)."`
	} `yaml:"ovn"`
}

// AnalyzerFlow holds the keys below analyzer.flow.
type AnalyzerFlow struct {
	Backend       string `yaml:"backend" default:"disk" doc:"Section of storage that keeps flows. With memory only live flows are seen."`
	MaxBufferSize int    `yaml:"max_buffer_size" default:"100000" unit:"flows" min:"1" doc:"Flows waiting to be stored; what does not fit is dropped and counted."`
}

// Agent holds the keys below agent.
type Agent struct {
	Listen   Address `yaml:"listen" default:"127.0.0.1:8081" doc:"Address of the agent's own API."`
	Auth     AgentAuth
	Topology AgentTopology
	Capture  struct {
		StatsUpdate time.Duration `yaml:"stats_update" default:"1" unit:"seconds" min:"1" doc:"Time between two readings of capture statistics."`
		RingSize    Size          `yaml:"ring_size" default:"4MiB" min:"65536" doc:"Memory that the kernel and the agent share for the packets of one capture."`
	}
	Flow struct {
		PcapSocket struct {
			BindAddress string `yaml:"bind_address" default:"127.0.0.1" doc:"Address of the TCP sockets that take packets in pcap format (capture type pcapsocket)."`
			MinPort     int    `yaml:"min_port" default:"8100" min:"1" doc:"First port of the pcap sockets."`
			MaxPort     int    `yaml:"max_port" default:"8132" min:"1" doc:"Last port of the pcap sockets."`
		}
		SFlow struct {
			BindAddress string `yaml:"bind_address" default:"127.0.0.1" doc:"Address that bridges of Open vSwitch send sFlow to (capture type ovssflow)."`
			PortMin     int    `yaml:"port_min" default:"6345" min:"1" doc:"First port for them: each bridge has one of its own."`
			PortMax     int    `yaml:"port_max" default:"6355" min:"1" doc:"Last port for them."`
		} `yaml:"sflow"`
		NetFlow struct {
			BindAddress string `yaml:"bind_address" default:"127.0.0.1" doc:"Address that bridges of Open vSwitch send NetFlow and IPFIX to (capture types ovsnetflow and ovsipfix)."`
			PortMin     int    `yaml:"port_min" default:"6365" min:"1" doc:"First port for them: each bridge has one of its own."`
			PortMax     int    `yaml:"port_max" default:"6375" min:"1" doc:"Last port for them."`
		} `yaml:"netflow"`
	}
	Metadata map[string]any `yaml:"metadata" default:"{}" doc:"Extra metadata of the host node, free-form."`
}

// AgentAuth holds the keys below agent.auth.
type AgentAuth struct {
	API struct {
		Backend string `yaml:"backend" default:"noauth" doc:"Section of auth that decides who may use the agent's API."`
	}
	Cluster struct {
		Username string `yaml:"username" doc:"User name shown to the analyzers."`
		Password string `yaml:"password" secret:"true" doc:"Password shown to the analyzers."`
	}
}

// AgentTopology holds the keys below agent.topology.
type AgentTopology struct {
	Probes  []string `yaml:"probes" default:"[ovsdb]" doc:"Topology probes that the agent runs besides netlink and netns, which always run. A probe that this version or this host lacks is reported as absent and stops nothing."`
	Netlink struct {
		MetricsUpdate time.Duration `yaml:"metrics_update" default:"30" unit:"seconds" min:"1" doc:"Time between two readings of the interfaces' counters."`
	}
	Netns struct {
		RunPath string `yaml:"run_path" default:"/var/run/netns" doc:"Directory of the named network namespaces. In a container, mount the host's directory and name it here."`
	}
	Neutron Neutron `yaml:"neutron"`
}

// Neutron holds the keys below agent.topology.neutron.
type Neutron struct {
	AuthURL      string `yaml:"auth_url" doc:"URL of Keystone, such as https://keystone:5000/v3."`
	Username     string `yaml:"username" default:"neutron" doc:"User name. Neutron shows the ports of all projects to administrators only, unless its policy says otherwise."`
	Password     string `yaml:"password" secret:"true" doc:"Password."`
	TenantName   string `yaml:"tenant_name" default:"service" doc:"Project."`
	RegionName   string `yaml:"region_name" default:"RegionOne" doc:"Region whose Neutron is asked."`
	DomainName   string `yaml:"domain_name" default:"Default" doc:"Domain of the user and of the project."`
	EndpointType string `yaml:"endpoint_type" default:"public" oneof:"public|internal|admin" doc:"Endpoint of Neutron to use: public, internal or admin."`
	SSLInsecure  bool   `yaml:"ssl_insecure" default:"false" doc:"Do not verify the servers' certificates."`
	CACert       string `yaml:"ca_cert" doc:"Certificates of the authorities that signed the servers' certificates; those of the system when unset."`

	Update time.Duration `yaml:"update" default:"30" unit:"seconds" min:"1" doc:"Time between two looks for what changed. New interfaces are looked up at once."`
}

// OVS holds the keys below ovs.
type OVS struct {
	OVSDB       string `yaml:"ovsdb" default:"unix:///var/run/openvswitch/db.sock" doc:"Address of the Open vSwitch database: unix:///path, tcp://host:port or ssl://host:port."`
	OVSDBCert   string `yaml:"ovsdb_cert" doc:"Certificate shown to the database at an ssl:// address."`
	OVSDBKey    string `yaml:"ovsdb_key" doc:"Private key of ovsdb_cert."`
	OVSDBCA     string `yaml:"ovsdb_ca" doc:"Authorities that signed the database's certificate."`
	EnableStats bool   `yaml:"enable_stats" default:"false" doc:"Follow the statistics that the switch keeps of its interfaces."`
	OFlow       struct {
		Enable           bool              `yaml:"enable" default:"false" doc:"Show OpenFlow rules and groups as nodes, live."`
		OpenFlowVersions []string          `yaml:"openflow_versions" default:"[OpenFlow10, OpenFlow11, OpenFlow12, OpenFlow13, OpenFlow14]" doc:"OpenFlow versions offered: OpenFlow10 to OpenFlow15."`
		Address          map[string]string `yaml:"address" default:"{}" doc:"Map of bridges to OpenFlow addresses (unix:/path, tcp:host:port, ssl:host:port). Unset: the bridge's socket beside that of the database."`
		Cert             string            `yaml:"cert" doc:"Certificate shown to switches."`
		Key              string            `yaml:"key" doc:"Private key of cert."`
		CA               string            `yaml:"ca" doc:"Authorities that signed the switches' certificates."`
	} `yaml:"oflow"`
}

// Auth is one section auth.<name>.
type Auth struct {
	Type       string            `yaml:"type" doc:"Kind of backend: noauth, basic or keystone."`
	File       string            `yaml:"file" doc:"htpasswd file (type basic), re-read when it changes. It wins over users."`
	Users      map[string]string `yaml:"users" secret:"true" doc:"Map of user names to plain passwords (type basic)."`
	Role       string            `yaml:"role" default:"admin" doc:"Role of an authenticated user who has no role in the policies."`
	AuthURL    string            `yaml:"auth_url" doc:"URL of Keystone (type keystone), such as https://keystone:5000/v3."`
	TenantName string            `yaml:"tenant_name" default:"admin" doc:"Project that users must belong to (type keystone)."`
	DomainName string            `yaml:"domain_name" default:"Default" doc:"Domain that users and their project must belong to (type keystone)."`
	CACert     string            `yaml:"ca_cert" doc:"Certificates of the authorities that signed Keystone's certificate; the system's when unset."`
}

// TLS holds the keys below tls.
type TLS struct {
	CACert            string `yaml:"ca_cert" doc:"Certificates of the authorities that signed the peers' certificates (PEM)."`
	ServerCert        string `yaml:"server_cert" doc:"Certificate of this server (PEM), with those between it and its authority."`
	ServerKey         string `yaml:"server_key" doc:"Private key of server_cert (PEM)."`
	ClientCert        string `yaml:"client_cert" doc:"Certificate shown to servers (PEM): agents and analyzers need one to connect to analyzers."`
	ClientKey         string `yaml:"client_key" doc:"Private key of client_cert (PEM)."`
	RequireClientCert bool   `yaml:"require_client_cert" default:"false" doc:"Refuse every client that shows no certificate of a known authority. Without it only agents and analyzers must."`
}

// RBAC holds the keys below rbac.
type RBAC struct {
	Model struct {
		RequestDefinition []string `yaml:"request_definition" default:"['sub, obj, act']" doc:"casbin request definitions."`
		PolicyDefinition  []string `yaml:"policy_definition" default:"['sub, obj, act, eft']" doc:"casbin policy definitions."`
		RoleDefinition    []string `yaml:"role_definition" default:"['_, _']" doc:"casbin role definitions."`
		PolicyEffect      []string `yaml:"policy_effect" default:"['some(where (p_eft == allow)) && !some(where (p_eft == deny))']" doc:"casbin policy effect."`
		Matchers          []string `yaml:"matchers" default:"['g(r.sub, p.sub) && r.obj == p.obj && r.act == p.act']" doc:"casbin matchers."`
	}
	Policy []string `yaml:"policy" default:"[]" doc:"Policy lines added to the bundled ones, such as \"p, ops, capture, write, allow\" and \"g, alice, ops\"."`
}

// HTTP holds the keys below http.
type HTTP struct {
	Cookie map[string]string `yaml:"cookie" default:"{}" secret:"true" doc:"Map of cookies added to outgoing connections between agents and analyzers."`
	WS     struct {
		PingDelay   time.Duration `yaml:"ping_delay" default:"2" unit:"seconds" doc:"Time between two pings of a WebSocket connection. 0 disables them."`
		PongTimeout time.Duration `yaml:"pong_timeout" default:"5" unit:"seconds" doc:"Time, beyond ping_delay, after which a silent WebSocket connection is dropped."`
		QueueSize   int           `yaml:"queue_size" default:"10000" unit:"messages" min:"1" doc:"Messages waiting for one peer before it is dropped and synchronised anew."`
	}
}

// LogBackend holds the keys below logging.<backend>; "" means the general one.
type LogBackend struct {
	Level   string `yaml:"level" oneof:"|DEBUG|INFO|NOTICE|WARNING|ERROR|CRITICAL" doc:"Level of this backend, instead of logging.level."`
	Encoder string `yaml:"encoder" oneof:"|json" doc:"Encoder of this backend, instead of logging.encoder."`
}

// Logging holds the keys below logging.
type Logging struct {
	Level    string     `yaml:"level" default:"INFO" oneof:"DEBUG|INFO|NOTICE|WARNING|ERROR|CRITICAL" doc:"Least severe level that is logged: DEBUG, INFO, NOTICE, WARNING, ERROR or CRITICAL."`
	Backends []string   `yaml:"backends" default:"[stderr]" oneof:"stderr|stdout|file|syslog" doc:"Where logs go: stderr, stdout, file, syslog."`
	Encoder  string     `yaml:"encoder" oneof:"|json" doc:"Empty for text, json for one JSON object per line."`
	Color    bool       `yaml:"color" default:"true" doc:"Colour the level when the log goes to a terminal."`
	ID       string     `yaml:"id" doc:"Added to the host id in log lines. The services set it to their own name."`
	Stderr   LogBackend `yaml:"stderr"`
	Stdout   LogBackend `yaml:"stdout"`
	File     struct {
		LogBackend `yaml:",inline"`
		Path       string `yaml:"path" default:"/var/log/skydive.log" doc:"File that the backend file appends to."`
	}
	Syslog struct {
		LogBackend `yaml:",inline"`
		Address    string `yaml:"address" default:"/dev/log" doc:"Address of the syslog server: a path, or host:port."`
		Protocol   string `yaml:"protocol" default:"unixgram" oneof:"unixgram|unix|udp|tcp" doc:"Protocol of the syslog server: unixgram, unix, udp or tcp."`
		Tag        string `yaml:"tag" default:"skydive" doc:"Tag of the syslog messages."`
	}
}

// Etcd holds the keys below etcd.
type Etcd struct {
	Embedded      bool              `yaml:"embedded" default:"true" doc:"Whether the analyzer runs its own etcd server."`
	Listen        Address           `yaml:"listen" default:"127.0.0.1:12379" doc:"Client address of the embedded server; the next port is used between servers."`
	Servers       []string          `yaml:"servers" doc:"URLs of the etcd servers. Unset: the embedded one or, when etcd.embedded is false, port 12379 of the analyzers."`
	Peers         map[string]string `yaml:"peers" default:"{}" doc:"Map of names to peer URLs of all the embedded servers of a cluster."`
	Name          string            `yaml:"name" default:"$hostname" doc:"Name of the embedded server; it must be a name of etcd.peers."`
	DataDir       string            `yaml:"data_dir" default:"/var/lib/skydive/etcd" doc:"Directory of the embedded server's data."`
	MaxWALFiles   int               `yaml:"max_wal_files" default:"5" unit:"files" doc:"Write-ahead log files kept. 0 keeps all."`
	MaxSnapFiles  int               `yaml:"max_snap_files" default:"5" unit:"files" doc:"Snapshot files kept. 0 keeps all."`
	ClientTimeout time.Duration     `yaml:"client_timeout" default:"5" unit:"seconds" doc:"Time after which a request to etcd is given up. 0 never gives up."`
	Debug         bool              `yaml:"debug" default:"false" doc:"Log what the embedded server does."`
}

// Storage is one section storage.<name>.
type Storage struct {
	Driver  string        `yaml:"driver" doc:"Kind of storage: disk or memory."`
	Path    string        `yaml:"path" doc:"Directory of a disk storage. Unset: archive, beside etcd.data_dir."`
	MaxAge  time.Duration `yaml:"max_age" default:"168h" unit:"seconds" min:"1" doc:"Age at which a disk storage forgets."`
	MaxSize Size          `yaml:"max_size" default:"10GiB" min:"1048576" doc:"Size that a disk storage keeps to."`
}

// Flow holds the keys below flow.
type Flow struct {
	Expire              time.Duration  `yaml:"expire" default:"600" unit:"seconds" min:"1" doc:"Age at which a silent flow ends."`
	Update              time.Duration  `yaml:"update" default:"60" unit:"seconds" min:"1" doc:"Time between two reports of a flow."`
	MaxEntries          int            `yaml:"max_entries" default:"500000" unit:"flows" min:"1" doc:"Flows held by one table. When it is full, those silent for longest make room, and are counted."`
	Protocol            string         `yaml:"protocol" oneof:"|udp|websocket" doc:"How agents send flows: udp or websocket. Unset: udp or, where agents must show credentials, websocket; then udp would be less safe, and is warned about."`
	ApplicationTimeout  map[string]any `yaml:"application_timeout" default:"{arp: 10, dns: 10}" doc:"Map of applications to the seconds after which their silent flows end."`
	DefaultLayerKeyMode string         `yaml:"default_layer_key_mode" oneof:"|L2|L3" doc:"Layer that flow keys begin with, for captures that do not say: L2 (also when empty) or L3."`
	ApplicationPorts    struct {
		TCP map[string]any `yaml:"tcp" default:"{}" doc:"Map of TCP ports to application names."`
		UDP map[string]any `yaml:"udp" default:"{}" doc:"Map of UDP ports to application names."`
	} `yaml:"application_ports"`
}
