#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Keep several edges in the topology of Skydive."""

DOCUMENTATION = r"""
module: skydive_edge_list
short_description: Keep several edges in the topology of Skydive
version_added: 1.0.0
author: The Skydive authors (@skydive-project)
description:
  - Does what C(skydive_edge) does, for many edges over one connection.
  - All their nodes are looked up before the first edge is changed.
options:
  edges:
    description: The edges.
    type: list
    elements: dict
    required: true
    suboptions:
      node1:
        description: The parent. An identifier, or a Gremlin expression that begins with C(G.) or C(g.) and matches exactly one node.
        type: str
        required: true
      node2:
        description: The child, given like I(node1).
        type: str
        required: true
      relation_type:
        description: Type of the relation, such as C(layer2) or C(ownership).
        type: str
        required: true
      host:
        description: Identity of the host that the edge belongs to, instead of I(host) of all.
        type: str
        default: ''
      metadata:
        description: Metadata of the edge. Keys that are not named are left as they are; one that is null is removed.
        type: dict
        default: {}
  host:
    description: Identity of the host that the edges belong to. Empty leaves it as it is.
    type: str
    default: ''
  state:
    description: Whether the edges shall exist.
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
    description: Shows host and metadata before and after.
    support: full
notes:
  - The host that runs the module must reach the analyzer. It needs Python 3.6 or newer, and nothing but its standard library.
"""

EXAMPLES = r"""
- name: Wires between the switches
  skydive_edge_list:
    edges:
      - node1: "{{ row.UUID[0] }}"
        node2: "{{ row.UUID[1] }}"
        relation_type: layer2
"""

RETURN = r"""
UUID:
  description: Identifiers of the edges, in the order of I(edges); null for one without its nodes.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.skydive import CONNECTION, STATE, Ends, edge, ensure_all, run


def work(module, analyzer):
    params = module.params
    ends = Ends(module, analyzer, params["state"])
    wanted = [edge(ends, e["node1"], e["node2"], e["relation_type"], e["host"] or params["host"], e["metadata"]) for e in params["edges"]]
    return ensure_all(analyzer, "edge", wanted, params["state"])


def main():
    run(AnsibleModule(
        argument_spec=dict(
            CONNECTION,
            edges=dict(type="list", elements="dict", required=True, options=dict(
                node1=dict(type="str", required=True),
                node2=dict(type="str", required=True),
                relation_type=dict(type="str", required=True),
                host=dict(type="str", default=""),
                metadata=dict(type="dict", default={}),
            )),
            host=dict(type="str", default=""),
            state=STATE,
        ),
        supports_check_mode=True,
    ), work)


if __name__ == "__main__":
    main()
