#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Keep a packet capture of Skydive."""

DOCUMENTATION = r"""
module: skydive_capture
short_description: Keep a packet capture of Skydive
version_added: 1.0.0
author: The Skydive authors (@skydive-project)
description:
  - Creates, replaces or removes one capture.
  - With I(name), the capture of that name is meant. Without, the one with the same I(query), I(type) and I(bpf_filter), which is what an
    analyzer tells captures apart by.
  - A capture cannot be changed while it runs. One that differs is replaced by a new one with a new identifier.
options:
  query:
    description: Gremlin expression of the nodes to capture on. Needed unless I(name) says what to remove.
    type: str
  name:
    description: Name of the capture.
    type: str
    default: ''
    aliases: [capture_name]
  description:
    description: What it is for.
    type: str
    aliases: [capture_description]
  type:
    description: How packets are taken, such as C(afpacket), C(pcap), C(ebpf), C(sflow) or C(ovsmirror). Empty is what suits each node.
    type: str
    default: ''
    aliases: [capture_type]
  bpf_filter:
    description: BPF filter of the packets.
    type: str
    default: ''
  port:
    description: UDP port of an sFlow collector.
    type: int
  sampling_rate:
    description: One packet of so many is looked at (sFlow).
    type: int
  polling_interval:
    description: Seconds between two readings of counters (sFlow).
    type: int
  raw_packet_limit:
    description: Raw packets kept of each flow, 0 to 10.
    type: int
  header_size:
    description: Bytes of each packet that are read, 14 to 4096.
    type: int
  extra_tcp_metric:
    description: Measure TCP more closely.
    type: bool
  ip_defrag:
    description: Put IP fragments together.
    type: bool
  reassemble_tcp:
    description: Put TCP streams together.
    type: bool
  layer_key_mode:
    description: Layer that the keys of flows begin with.
    type: str
    choices: [L2, L3]
  extra_layers:
    description: More layers to decode.
    type: list
    elements: str
    choices: [VRRP, DNS, DHCPv4]
  target:
    description: C(HOST:PORT) that packets or flows are sent to, instead of the analyzer.
    type: str
  target_type:
    description: How they are sent to I(target), such as C(netflowv5) or C(erspanv1).
    type: str
  state:
    description: Whether the capture shall exist.
    type: str
    choices: [present, absent]
    default: present
  analyzer:
    description: Address of the analyzer, C(HOST:PORT). Without a port it is 8082.
    type: str
    default: 127.0.0.1:8082
  ssl:
    description: Connect with TLS.
    type: bool
    default: false
  insecure:
    description: Do not verify the analyzer's certificate.
    type: bool
    default: false
  ca_cert:
    description: File with the authorities that may have signed the analyzer's certificate. Without it they are those of the host.
    type: path
  client_cert:
    description: Certificate that is shown to the analyzer.
    type: path
  client_key:
    description: Private key of I(client_cert), if it is not in the same file.
    type: path
  username:
    description: User to log in as. Without it nobody logs in.
    type: str
    default: ''
  password:
    description: Password of I(username).
    type: str
    default: ''
  timeout:
    description: Seconds to wait for each answer of the analyzer.
    type: int
    default: 10
attributes:
  check_mode:
    description: Tells what would change; nothing is sent but questions.
    support: full
  diff_mode:
    description: Shows the fields that differ, before and after.
    support: full
notes:
  - The host that runs the module must reach the analyzer. It needs Python 3.6 or newer, and nothing but its standard library.
"""

EXAMPLES = r"""
- name: DNS on every eth0
  skydive_capture:
    name: dns
    query: G.V().Has('Name', 'eth0')
    bpf_filter: udp port 53
    extra_layers: [DNS]

- name: No more
  skydive_capture:
    name: dns
    state: absent
"""

RETURN = r"""
UUID:
  description: Identifier of the capture. Null when there is none, and in check mode for one that would be created.
  type: str
  returned: success
  sample: 8c1bbd7e-59d5-4c3f-8a3c-5cd3a2b7ad7e
capture:
  description: The capture as the analyzer has it, with the fields of the REST API.
  type: dict
  returned: when there is one
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.skydive import CONNECTION, STATE, Failure, answer, run, same

LAYERS = {"VRRP": 1, "DNS": 2, "DHCPv4": 4}

# What an argument is called in the API.
FIELDS = dict(
    query="GremlinQuery", name="Name", description="Description", type="Type", bpf_filter="BPFFilter", port="Port",
    sampling_rate="SamplingRate", polling_interval="PollingInterval", raw_packet_limit="RawPacketLimit", header_size="HeaderSize",
    extra_tcp_metric="ExtraTCPMetric", ip_defrag="IPDefrag", reassemble_tcp="ReassembleTCP", layer_key_mode="LayerKeyMode",
    extra_layers="ExtraLayers", target="Target", target_type="TargetType",
)


def field(capture, name):
    """A field of a capture; the API leaves out what is empty."""
    return capture.get(name) or None


def find(analyzer, wanted, label):
    """The capture that is meant, or None."""
    keys = ("Name",) if wanted["Name"] else ("GremlinQuery", "Type", "BPFFilter")
    found = [c for c in analyzer.list("capture").values() if all(field(c, key) == field(wanted, key) for key in keys)]
    if len(found) > 1:
        raise Failure("there are %d captures %s, where one is needed: %s" % (len(found), label, ", ".join(sorted(c["UUID"] for c in found))))
    return found[0] if found else None


def work(module, analyzer):
    params = dict(module.params)
    if not params["query"] and (not params["name"] or params["state"] == "present"):
        raise Failure("a capture needs a query")
    if params["extra_layers"] is not None:
        params["extra_layers"] = sum(LAYERS[layer] for layer in set(params["extra_layers"]))
    wanted = {name: params[argument] for argument, name in FIELDS.items() if params[argument] is not None}
    label = "'%s'" % params["name"] if params["name"] else "of %s" % params["query"]
    now = find(analyzer, wanted, label)
    if not wanted["Name"]:
        del wanted["Name"]  # whatever it is called

    if params["state"] == "absent":
        if now is None:
            return answer(None, UUID=None)
        analyzer.delete("capture", now["UUID"], label)
        return answer((now, {}), UUID=now["UUID"])
    if now is None:
        made = analyzer.create("capture", wanted, label)
        return answer(({}, wanted), UUID=made.get("UUID"), capture=made)
    different = sorted(name for name in wanted if not same(field(now, name), field(wanted, name)))
    if not different:
        return answer(None, UUID=now["UUID"], capture=now)
    made = replace(analyzer, now, dict(now, **wanted), label)
    before, after = ({name: c.get(name) for name in different} for c in (now, wanted))
    return answer((before, after), UUID=made.get("UUID"), capture=made)


def replace(analyzer, old, new, label):
    """The new one comes first, so that one which is refused does not cost the old one, unless they exclude each other."""
    try:
        made = analyzer.create("capture", new, label)
    except Failure as failure:
        if failure.status != 409:
            raise
        analyzer.delete("capture", old["UUID"], label)
        try:
            return analyzer.create("capture", new, label)
        except Failure:
            analyzer.create("capture", old, label)
            raise
    analyzer.delete("capture", old["UUID"], label)
    return made


def main():
    run(AnsibleModule(
        argument_spec=dict(
            CONNECTION,
            query=dict(type="str"),
            name=dict(type="str", default="", aliases=["capture_name"]),
            description=dict(type="str", aliases=["capture_description"]),
            type=dict(type="str", default="", aliases=["capture_type"]),
            bpf_filter=dict(type="str", default=""),
            port=dict(type="int"),
            sampling_rate=dict(type="int"),
            polling_interval=dict(type="int"),
            raw_packet_limit=dict(type="int"),
            header_size=dict(type="int"),
            extra_tcp_metric=dict(type="bool"),
            ip_defrag=dict(type="bool"),
            reassemble_tcp=dict(type="bool"),
            layer_key_mode=dict(type="str", choices=["L2", "L3"]),
            extra_layers=dict(type="list", elements="str", choices=["VRRP", "DNS", "DHCPv4"]),
            target=dict(type="str"),
            target_type=dict(type="str"),
            state=STATE,
        ),
        supports_check_mode=True,
    ), work)


if __name__ == "__main__":
    main()
