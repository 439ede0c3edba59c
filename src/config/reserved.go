package config

// Status says what setting a key does in this version.
type Status int

// The states of a key.
const (
	Active       Status = iota // read by this version
	Later                      // its engine is not in this version
	NoEffect                   // accepted for old files; nothing reads it
	NotSupported               // belongs to a part of the public Skydive that is not rebuilt
)

// String returns the words used in warnings.
func (s Status) String() string {
	return [...]string{"active", "not in this version", "has no effect", "not supported"}[s]
}

// esExcluded is what Elasticsearch need not index.
const esExcluded = "[Metadata.*.Extra, Metadata.Container.Labels, Metadata.Container.Hosts.ByIP, Metadata.K8s.Labels, Metadata.Actions, Metadata.Filters, Metadata.LXD.Config, Metadata.LXD.Devices, Metadata.OVN.ExtID, Metadata.OVN.Options, Metadata.OVN.IPv6RAConfigs]"

// reserved are the known keys that no code of this version reads. A key leaves
// this list when the code that reads it enters.
var reserved = []Key{
	{Name: "agent.flow.ebpf.polling_rate", Kind: Int, Default: "16000", Unit: "flows per second", Status: Later, Doc: "Flows read from the kernel."},

	{Name: "storage.<name>.hosts", Kind: List, Status: Later, Doc: "URLs of Elasticsearch; http://127.0.0.1:9200 when unset."},
	{Name: "storage.<name>.host", Kind: String, Status: Later, Doc: "Older spelling of hosts, with one URL."},
	{Name: "storage.<name>.auth.username", Kind: String, Status: Later, Doc: "User name for Elasticsearch."},
	{Name: "storage.<name>.auth.password", Kind: String, Secret: true, Status: Later, Doc: "Password for Elasticsearch."},
	{Name: "storage.<name>.ssl_insecure", Kind: Bool, Default: "false", Status: Later, Doc: "Do not verify the server's certificate."},
	{Name: "storage.<name>.disable_sniffing", Kind: Bool, Default: "false", Status: Later, Doc: "Do not look for more servers."},
	{Name: "storage.<name>.disable_healthcheck", Kind: Bool, Default: "false", Status: Later, Doc: "Do not check the servers' health."},
	{Name: "storage.<name>.debug", Kind: Bool, Default: "false", Status: Later, Doc: "Log requests."},
	{Name: "storage.<name>.bulk_maxdelay", Kind: Seconds, Default: "5", Unit: "seconds", Status: Later, Doc: "Time after which a batch is written."},
	{Name: "storage.<name>.index_prefix", Kind: String, Default: "skydive_", Status: Later, Doc: "Beginning of index names."},
	{Name: "storage.<name>.index_entries_limit", Kind: Int, Default: "0", Unit: "documents", Status: Later, Doc: "Size at which a new index is begun. 0: no limit."},
	{Name: "storage.<name>.index_age_limit", Kind: Int, Default: "0", Unit: "minutes", Status: Later, Doc: "Age at which a new index is begun. 0: no limit."},
	{Name: "storage.<name>.indices_to_keep", Kind: Int, Default: "0", Unit: "indices", Status: Later, Doc: "Indices kept. 0: all."},
	{Name: "storage.<name>.total_fields_limit", Kind: Int, Default: "1000", Min: -1, Unit: "fields", Status: Later, Doc: "Fields of one index. -1: the server's own limit."},
	{Name: "storage.<name>.exclude_from_mapping", Kind: List, Default: esExcluded, Status: Later, Doc: "Fields that are stored but not indexed."},
	{Name: "storage.<name>.use_flattened", Kind: Bool, Default: "true", Status: Later, Doc: "Store excluded fields as one flattened field."},
	{Name: "storage.<name>.flattened_ignore_above", Kind: Int, Default: "32768", Unit: "bytes", Status: Later, Doc: "Longest text in a flattened field."},
	{Name: "storage.<name>.addr", Kind: String, Status: NotSupported, Doc: "URL of OrientDB."},
	{Name: "storage.<name>.database", Kind: String, Status: NotSupported, Doc: "Database of OrientDB."},
	{Name: "storage.<name>.username", Kind: String, Status: NotSupported, Doc: "User name for OrientDB."},
	{Name: "storage.<name>.password", Kind: String, Secret: true, Status: NotSupported, Doc: "Password for OrientDB."},

	{Name: "agent.metadata_config.files", Kind: Objects, Default: "[]", Status: Later, Doc: "Files whose values become metadata of the host node: list of {path, type, name, selector}."},
	{Name: "agent.topology.docker.url", Kind: String, Default: "unix:///var/run/docker.sock", Status: Later, Doc: "Address of Docker."},
	{Name: "agent.topology.docker.netns.run_path", Kind: String, Default: "/var/run/docker/netns", Status: Later, Doc: "Directory of Docker's network namespaces."},
	{Name: "agent.topology.runc.run_path", Kind: List, Default: "[/run/containerd/runc, /run/runc, /run/runc-ctrs]", Status: Later, Doc: "Directories of runc's state."},
	{Name: "agent.topology.socketinfo.host_update", Kind: Seconds, Default: "10", Unit: "seconds", Status: Later, Doc: "Time between two updates of the sockets in the host node."},
	{Name: "agent.topology.lldp.interfaces", Kind: List, Status: Later, Doc: "Interfaces that listen to LLDP; all when unset."},
	{Name: "agent.topology.libvirt.url", Kind: String, Status: Later, Doc: "Address of libvirt, such as qemu:///system."},
	{Name: "agent.topology.blockdev.lsblk_path", Kind: String, Default: "/usr/bin/lsblk", Status: Later, Doc: "Path of lsblk."},
	{Name: "agent.topology.blockdev.iostat_path", Kind: String, Status: Later, Doc: "Path of iostat."},
	{Name: "agent.topology.blockdev.iostat_update", Kind: Seconds, Unit: "seconds", Status: Later, Doc: "Time between two readings of iostat."},
	{Name: "ovs.oflow.native", Kind: Bool, Default: "false", Status: NoEffect, Doc: "OpenFlow is always spoken; ovs-ofctl is not run."},
	{Name: "analyzer.topology.k8s.config_file", Kind: String, Default: "/etc/skydive/kubeconfig", Status: Later, Doc: "Kubernetes client configuration."},
	{Name: "analyzer.topology.k8s.cluster_name", Kind: String, Status: Later, Doc: "Name of the Kubernetes cluster."},
	{Name: "analyzer.topology.k8s.probes", Kind: List, Status: Later, Doc: "Kinds of Kubernetes objects shown; all when unset."},
	{Name: "analyzer.topology.istio.config_file", Kind: String, Default: "/etc/skydive/kubeconfig", Status: Later, Doc: "Kubernetes client configuration."},
	{Name: "analyzer.topology.istio.probes", Kind: List, Status: Later, Doc: "Kinds of Istio objects shown; all when unset."},

	{Name: "http.rest.debug", Kind: Bool, Default: "false", Status: NoEffect, Doc: "Requests are logged at level DEBUG."},
	{Name: "http.ws.enable_write_compression", Kind: Bool, Default: "true", Status: NoEffect, Doc: "WebSocket messages are not compressed."},
	{Name: "http.ws.bulk_maxmsgs", Kind: Int, Status: NoEffect, Doc: "Messages are batched as they wait."},
	{Name: "http.ws.bulk_maxdelay", Kind: Int, Status: NoEffect, Doc: "Messages are batched as they wait."},
	{Name: "analyzer.replication.debug", Kind: Bool, Default: "false", Status: NoEffect, Doc: "Replication is logged at level DEBUG."},
	{Name: "cache.expire", Kind: Int, Default: "300", Unit: "seconds", Status: NoEffect, Doc: "There is no such cache."},
	{Name: "cache.cleanup", Kind: Int, Default: "30", Unit: "seconds", Status: NoEffect, Doc: "There is no such cache."},
	{Name: "agent.flow.probes", Kind: List, Status: NoEffect, Doc: "Every kind of capture is always available."},

	{Name: "analyzer.ssh_enabled", Kind: Bool, Default: "false", Status: NotSupported, Doc: "Web terminal."},
	{Name: "agent.topology.vpp.connect", Kind: String, Status: NotSupported, Doc: "Address of VPP."},
	{Name: "agent.topology.bess.host", Kind: String, Default: "127.0.0.1", Status: NotSupported, Doc: "Host of BESS."},
	{Name: "agent.topology.bess.port", Kind: Int, Default: "10514", Status: NotSupported, Doc: "Port of BESS."},
	{Name: "opencontrail.host", Kind: String, Default: "localhost", Status: NotSupported, Doc: "Host of OpenContrail."},
	{Name: "opencontrail.port", Kind: Int, Default: "8085", Status: NotSupported, Doc: "Port of OpenContrail."},
	{Name: "opencontrail.mpls_udp_port", Kind: Int, Default: "51234", Status: NotSupported, Doc: "MPLS over UDP port of OpenContrail."},
	{Name: "dpdk.ports", Kind: List, Status: NotSupported, Doc: "Ports of DPDK."},
	{Name: "dpdk.workers", Kind: Int, Status: NotSupported, Doc: "Workers of DPDK."},
	{Name: "dpdk.debug", Kind: Int, Status: NotSupported, Doc: "Debugging of DPDK."},
	{Name: "plugin.plugins_dir", Kind: String, Status: NotSupported, Doc: "Directory of Go plugins."},
	{Name: "plugin.topology.probes", Kind: List, Status: NotSupported, Doc: "Go plugins that are topology probes."},
}

// renames lists older keys and what replaced them. An old key gives the value
// of a new one that the user did not set.
var renames = []struct{ old, new string }{
	{"auth.type", "agent.auth.api.backend"},
	{"auth.type", "analyzer.auth.api.backend"},
	{"auth.type", "analyzer.auth.cluster.backend"},
	{"auth.analyzer_username", "agent.auth.cluster.username"},
	{"auth.analyzer_username", "analyzer.auth.cluster.username"},
	{"auth.analyzer_password", "agent.auth.cluster.password"},
	{"auth.analyzer_password", "analyzer.auth.cluster.password"},
	{"agent.flow.stats_update", "agent.capture.stats_update"},
	{"sflow.bind_address", "agent.flow.sflow.bind_address"},
	{"sflow.port_min", "agent.flow.sflow.port_min"},
	{"sflow.port_max", "agent.flow.sflow.port_max"},
	{"docker.url", "agent.topology.docker.url"},
	{"docker.netns.run_path", "agent.topology.docker.netns.run_path"},
	{"netns.run_path", "agent.topology.netns.run_path"},
	{"analyzer.storage.backend", "analyzer.flow.backend"},
	{"analyzer.storage.max_flow_buffer_size", "analyzer.flow.max_buffer_size"},
	{"graph.backend", "analyzer.topology.backend"},
	{"k8s.config_file", "analyzer.topology.k8s.config_file"},
	{"k8s.probes", "analyzer.topology.k8s.probes"},
	{"agent.flow.pcapsocket.port_min", "agent.flow.pcapsocket.min_port"},
	{"agent.flow.pcapsocket.port_max", "agent.flow.pcapsocket.max_port"},
}
