"""Jinja filters of the Skydive roles: pure functions, tested by ansible/tests/test_filters.py."""

import copy
import difflib
import ipaddress
import json
import posixpath
import re

import yaml


def endpoint(address, port):
    """Join address and port; an IPv6 address gets brackets."""
    address = str(address)
    if ":" in address and not address.startswith("["):
        address = "[%s]" % address
    return "%s:%d" % (address, int(port))


def as_list(value):
    """Accept a list, or a string whose items are separated by commas or blanks."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    return list(value or [])


def as_dict(value):
    """Accept a dict, or a string that holds one (-e "name={'a': 'b'}" arrives as a string)."""
    if isinstance(value, str):
        value = yaml.safe_load(value) if value.strip() else {}
    return value or {}


def prune(value):
    """Drop the keys whose value is None, "", [] or {}: what is not said keeps the product's default."""
    if not isinstance(value, dict):
        return value
    pruned = {key: prune(item) for key, item in value.items()}
    return {key: item for key, item in pruned.items() if item not in (None, "", [], {})}


def overlay(config, extra):
    """Set every dotted key of extra in config: maps merge, anything else replaces, None removes.

    Only the outermost keys are split at dots, so a name with a dot can be given inside a map.
    """
    config = copy.deepcopy(config)
    for dotted, value in as_dict(extra).items():
        *parents, last = str(dotted).split(".")
        level = config
        for key in parents:
            if not isinstance(level.get(key), dict):
                level[key] = {}
            level = level[key]
        _put(level, last, value)
    return config


def _put(level, key, value):
    if value is None:
        level.pop(key, None)
    elif isinstance(value, dict) and isinstance(level.get(key), dict):
        for name, item in value.items():
            _put(level[key], name, item)
    else:
        level[key] = copy.deepcopy(value)


def nic_address(facts, nic):
    """IPv4, else IPv6 address of an interface, named eth1 or, as a fact, ansible_eth1; "" when there is none."""
    nic = str(nic or "")
    if nic.startswith("ansible_"):
        nic = nic[len("ansible_"):]
    for char in "-.:":
        nic = nic.replace(char, "_")
    interface = facts.get(nic) or {}
    if not isinstance(interface, dict):
        return ""
    addresses = [interface.get("ipv4") or {}] + [a for a in interface.get("ipv6") or [] if a.get("scope") == "global"]
    return next((a["address"] for a in addresses if a.get("address")), "")


def reach(host):
    """Address under which the others reach an analyzer, from its variables (hostvars)."""
    facts = host.get("ansible_facts") or {}
    candidates = [
        host.get("skydive_analyzer_ip"), host.get("skydive_listen_ip"), nic_address(facts, host.get("skydive_nic")),
        (facts.get("default_ipv4") or {}).get("address"), host.get("ansible_host"),
    ]
    # A wildcard says where to listen, not where to connect.
    return next((str(a) for a in candidates if a and str(a) not in ("0.0.0.0", "::")), host.get("inventory_hostname"))


def capabilities(names, bounding):
    """Those of the wanted capabilities that the host can give, by its bounding set (CapBnd, hexadecimal)."""
    # capability.h numbers; CapBnd is what a container runtime or hypervisor leaves to us.
    numbers = {
        "CAP_DAC_OVERRIDE": 1, "CAP_DAC_READ_SEARCH": 2, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_PTRACE": 19,
        "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39,
    }
    mask = int(bounding or "0", 16)
    return [name for name in names if mask >> numbers[name] & 1]


def rules(value):
    """Fabric rules: a list, a string that holds one, or a string with a rule on each line; rules contain blanks and commas."""
    if isinstance(value, str):
        value = yaml.safe_load(value) if value.lstrip().startswith("[") else value.splitlines()
    return [str(rule).strip() for rule in value or [] if str(rule).strip()]


def fabric(agents, tor, mtu, interface=""):
    """Rules for one switch with a port for each agent (hostvars), which leads to the host's default interface or to the one given."""
    lines = []
    switch = tor.upper()
    for number, host in enumerate(agents, 1):
        facts = host.get("ansible_facts") or {}
        default = interface or (facts.get("default_ipv4") or {}).get("interface") or (facts.get("default_ipv6") or {}).get("interface")
        if not facts.get("hostname") or not default:
            continue  # nothing is known that the port could lead to
        lines.append("%s[Name=%s] -> %s_PORT%d[Name=port%d, MTU=%d]" % (switch, tor, switch, number, number, int(mtu)))
        lines.append("%s_PORT%d -> *[Type=host,Name=%s]/%s" % (switch, number, facts["hostname"], default))
    return lines


def canonical(address):
    """An address as firewalls print it; a name stays a name."""
    try:
        return str(ipaddress.ip_address(str(address).strip("[]")))
    except ValueError:
        return str(address)


def firewall_rules(config, analyzers, services, cluster):
    """What must come in from other hosts, as "PROTOCOL PORT SOURCE WHAT" with SOURCE any or an address: what listens beyond loopback."""
    def beyond(section):
        host, _, port = str((config.get(section) or {}).get("listen") or "").rpartition(":")
        host = host.strip("[]")
        return int(port) if host and host not in ("localhost", "::1") and not host.startswith("127.") else 0

    protocol = (config.get("flow") or {}).get("protocol")
    # Unset, the product takes the way on which it can tell who sends, where there is one.
    cluster_auth = ((config.get("analyzer") or {}).get("auth") or {}).get("cluster") or {}
    udp = protocol == "udp" or not protocol and not config.get("tls") and cluster_auth.get("backend", "noauth") == "noauth"
    lines = []
    api, agent, etcd = beyond("analyzer"), beyond("agent"), beyond("etcd")
    if "analyzer" in services and api:
        lines += ["tcp %d any API port" % api] + ["udp %d any flow port" % api] * udp
    if "analyzer" in services and etcd and cluster:
        lines += ["tcp %d %s embedded etcd port" % (port, source) for source in map(canonical, analyzers) for port in (etcd, etcd + 1)]
    if "agent" in services and agent:
        lines.append("tcp %d any agent port" % agent)
    return lines


def probes(host):
    """Probes that the variables of a host (hostvars) ask for."""
    extra = overlay({}, host.get("skydive_extra_config"))
    for key in ("agent", "topology", "probes"):
        extra = extra.get(key) if isinstance(extra, dict) else None
    return as_list(extra or host.get("skydive_topology_probes"))


def not_running(nodes):
    """Sentences on the probes that host nodes show as absent or failed."""
    says = {"absent": "is absent", "failed": "has failed"}
    sentences = []
    for node in nodes:
        metadata = node["Metadata"]
        for name, state in sorted((metadata.get("Probes") or {}).items()):
            if state.get("Status") in says:
                sentences.append("%s: probe %s %s: %s" % (metadata.get("Name"), name, says[state["Status"]], state.get("Reason")))
    return sorted(sentences)


def unconnected(hosts, connected):
    """Inventory names of the agents (hostvars) whose identity is not among those that an analyzer sees."""
    def identity(host):
        return overlay({}, host.get("skydive_extra_config")).get("host_id") or (host.get("ansible_facts") or {}).get("hostname") or host["inventory_hostname"]
    return [host["inventory_hostname"] for host in hosts if str(identity(host)) not in connected]


def service(text, values):
    """A packaged unit or init script with this deployment's name, user, group, paths and capabilities."""
    text = text.replace("@SERVICE@", values["service"])
    text = text.replace("/usr/bin/skydive", values["binary"]).replace("/etc/skydive/skydive.yml", values["config"])
    for key in ("user", "group"):
        text = re.sub(r"(?mi)^(%s)=.*$" % key, lambda match: "%s=%s" % (match.group(1), values[key]), text)
    granted = " ".join(values["capabilities"])
    text = re.sub(r"(?m)^(CapabilityBoundingSet|AmbientCapabilities)=CAP_.*$", lambda match: "%s=%s" % (match.group(1), granted), text)
    text = re.sub(r"(?m)^SupplementaryGroups=.*$", "SupplementaryGroups=" + values.get("groups", ""), text)
    return re.sub(r"(?m)^CAPABILITIES=.*$", 'CAPABILITIES="%s"' % granted.replace("CAP_", "").lower(), text)


def ovsdb_socket(extra):
    """Path of the socket of Open vSwitch's database that skydive_extra_config names, or the usual one; "" when it is elsewhere."""
    ovs = overlay({}, extra).get("ovs")
    address = str((ovs.get("ovsdb") if isinstance(ovs, dict) else "") or "unix:///var/run/openvswitch/db.sock")
    return re.sub("^unix:(//)?", "", address) if address.startswith("unix:") else ""


def openvswitch(lines, wanted, user):
    """What the agent of a host needs for the sockets of Open vSwitch, by what the look at it printed: "" (nothing, or there is none),
    "group GID" or "capability". wanted are the probes asked for; without any the product's own choice has this one."""
    found = [line.split() for line in lines if line.split()[:1] == ["openvswitch"]]
    if not found or wanted and "ovsdb" not in wanted:
        return ""
    mode, owner, group = (found[0] + ["0", "", ""])[1:4]
    if owner == user and int(mode, 8) & 0o200 or int(mode, 8) & 0o002:
        return ""
    return "group " + group if int(mode, 8) & 0o020 else "capability"


def image(name, registry="", tag=""):
    """Whole reference of an image. A registry, tag or digest inside the name comes before the ones given beside it."""
    name = str(name or "skydive/skydive")
    first = name.split("/")[0] if "/" in name else ""
    if first != "localhost" and not set(first) & set(".:"):
        name = "%s/%s" % (str(registry or "docker.io").rstrip("/"), name)
    if "@" not in name and ":" not in name.rsplit("/", 1)[-1]:
        name = "%s:%s" % (name, tag or "latest")
    return name


# Keys of the configuration, at any depth, whose value is the path of a file.
FILES = {"file", "ca_cert", "cacert", "ca", "cert", "key", "client_cert", "client_key", "server_cert", "server_key", "config_file",
         "ovsdb_ca", "ovsdb_cert", "ovsdb_key"}


def config_paths(config):
    """Files that a configuration names, and directories that it wants to write: what a container must be given."""
    files, directories = set(), set()

    def walk(value, parents):
        key = parents[-1] if parents else ""
        if isinstance(value, dict):
            for name, item in value.items():
                walk(item, parents + [str(name)])
        elif isinstance(value, list):
            for item in value:
                walk(item, parents)
        elif not isinstance(value, str) or not value.startswith("/"):
            return
        elif key in FILES or parents[-2:] == ["files", "path"]:
            files.add(value)
        elif key == "data_dir" or parents[0] == "storage" and key == "path":
            directories.add(value)
        elif parents == ["logging", "file", "path"]:
            directories.add(posixpath.dirname(value))

    walk(config, [])
    return {"files": sorted(files), "directories": sorted(directories)}


def dropin(text, values):
    """What a deployment wants otherwise than the packaged unit says, as a drop-in of systemd; "" when that is nothing."""
    lines = []
    for packaged, wanted in zip(text.splitlines(), service(text, values).splitlines()):
        if wanted != packaged:
            key = wanted.partition("=")[0]
            # A further line adds to these; an empty one forgets what was said before.
            lines += ["%s=" % key] * (key in ("ExecStart", "CapabilityBoundingSet", "AmbientCapabilities")) + [wanted]
    return "[Service]\n%s\n" % "\n".join(lines) if lines else ""


def package_kind(host, platforms):
    """FORMAT/MACHINE of the packages that a host (hostvars) takes."""
    facts = host["ansible_facts"]
    return "%s/%s" % (platforms.get(facts["os_family"], {}).get("packages", ""), facts["architecture"])


def package_patterns(kind):
    """Names of the files of a release that hosts of a FORMAT/MACHINE may want."""
    form, machine = kind.split("/")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine) if form == "deb" else machine
    pattern = "%s_*_%s.deb" if form == "deb" else "%s-[0-9]*.%s.rpm"
    return [pattern % (name, machine) for name in ("skydive", "skydive-analyzer", "skydive-agent")]


def package_lines(package):
    """What look.sh says of a host that has a package, given as packages.sh tells it."""
    _, name, version, digest = package[:4]
    return ["package %s %s" % (name, version), "cached %s %s" % (name, digest)]


def local_url(address, path, config):
    """URL under which a host reaches its own service that listens on an address, ADDRESS:PORT; what it serves is up to its configuration."""
    scheme = "https" if (config.get("tls") or {}).get("server_cert") else "http"
    return "%s://%s%s" % (scheme, re.sub(r"^(0\.0\.0\.0|\[::\]):", "127.0.0.1:", address), path)


def unmade(directories, look, owners, group):
    """Return the directories that are missing or, where they are ours, not as they should be: each costs a round trip."""
    found = {path: (owner, mode) for _, owner, mode, path in (line.split(" ", 3) for line in look if line.startswith("directory "))}
    return [d for d in directories if d not in found or d in owners and found[d] != ("%s:%s" % (owners[d], group), "750")]


def room(directory, look, mebibytes):
    """A sentence when less than that is free for a directory, by what look.sh says; else ""."""
    for line in look:
        word, _, rest = line.partition(" ")
        free, _, name = rest.partition(" ")
        if word == "space" and name == directory and int(free) < mebibytes * 1024:
            return "%s has %d MiB free: this deployment needs %d MiB there" % (directory, int(free) // 1024, mebibytes)
    return ""


def archive(lines):
    """Name → digests by which an engine may know it, from the JSON documents of an image archive (a document a line)."""
    known = {}
    documents = [json.loads(line) for line in lines if line[:1] in "[{"]
    indexed = [entry["digest"] for document in documents if isinstance(document, dict) for entry in document.get("manifests") or []]
    for document in documents:
        for entry in document if isinstance(document, list) else []:
            digest = re.search("[0-9a-f]{64}", entry["Config"])
            for name in entry.get("RepoTags") or []:
                # An index that holds one image is about this one: engines that keep the manifest name the image by it.
                known[name] = [digest.group()] * bool(digest) + [d.split(":")[1] for d in indexed if len(indexed) == 1]
    return known


def image_ids(lines, engine):
    """Name → ID of the images that a host has, from lines "image ENGINE NAME:TAG ID NAME@DIGEST"."""
    known = {}
    for word, where, tagged, identity, digested in (line.split() for line in lines if line.startswith("image ") and len(line.split()) == 5):
        if where == engine:
            for name in (tagged, digested):
                if "<none>" not in name:
                    known[image(name)] = identity.split(":")[-1]
    return known


def unloaded(names, found, archived):
    """Those of the names under which a host has not the very image that the archive holds."""
    return [name for name in names if not found.get(name) or found[name] not in archived.get(name, [])]


def unknown_names(names, known):
    """Sentences on variables that look like ours and are not, with the nearest name that is."""
    sentences = []
    for name in sorted(set(names) - set(known)):
        near = difflib.get_close_matches(name, known, n=1)
        sentences.append("%s is not a variable of these roles%s" % (name, "; did you mean %s?" % near[0] if near else ""))
    return sentences


class FilterModule:
    def filters(self):
        return {
            "skydive_endpoint": endpoint,
            "skydive_list": as_list,
            "skydive_dict": as_dict,
            "skydive_prune": prune,
            "skydive_overlay": overlay,
            "skydive_nic_address": nic_address,
            "skydive_join": lambda pair: endpoint(*pair),
            "skydive_reach": reach,
            "skydive_capabilities": capabilities,
            "skydive_rules": rules,
            "skydive_fabric": fabric,
            "skydive_firewall_rules": firewall_rules,
            "skydive_probes": probes,
            "skydive_not_running": not_running,
            "skydive_ovsdb_socket": ovsdb_socket,
            "skydive_openvswitch": openvswitch,
            "skydive_unconnected": unconnected,
            "skydive_service": service,
            "skydive_dropin": dropin,
            "skydive_local_url": local_url,
            "skydive_unmade": unmade,
            "skydive_room": room,
            "skydive_package_kind": package_kind,
            "skydive_package_patterns": package_patterns,
            "skydive_package_lines": package_lines,
            "skydive_unknown_names": unknown_names,
            "skydive_image": image,
            "skydive_config_paths": config_paths,
            "skydive_archive": archive,
            "skydive_image_ids": image_ids,
            "skydive_unloaded": unloaded,
        }
