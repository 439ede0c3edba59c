"""Jinja filters of the Skydive roles: pure functions, tested by ansible/tests/test_filters.py."""

import copy
import difflib
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
        "CAP_DAC_READ_SEARCH": 2, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_PTRACE": 19,
        "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39,
    }
    mask = int(bounding or "0", 16)
    return [name for name in names if mask >> numbers[name] & 1]


def service(text, values):
    """A packaged unit or init script with this deployment's name, user, group, paths and capabilities."""
    text = text.replace("@SERVICE@", values["service"])
    text = text.replace("/usr/bin/skydive", values["binary"]).replace("/etc/skydive/skydive.yml", values["config"])
    for key in ("user", "group"):
        text = re.sub(r"(?mi)^(%s)=.*$" % key, lambda match: "%s=%s" % (match.group(1), values[key]), text)
    granted = " ".join(values["capabilities"])
    return re.sub(r"(?m)^(CapabilityBoundingSet|AmbientCapabilities)=CAP_.*$", lambda match: "%s=%s" % (match.group(1), granted), text)


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
            "skydive_service": service,
            "skydive_unknown_names": unknown_names,
        }
