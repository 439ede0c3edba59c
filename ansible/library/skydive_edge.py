#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Keep an edge in the topology of Skydive."""

DOCUMENTATION = r"""
module: skydive_edge
short_description: Keep an edge in the topology of Skydive
version_added: 1.0.0
author: The Skydive authors (@skydive-project)
description:
  - Creates, updates or removes one edge between two nodes.
  - The edge stays until it or one of its nodes is removed.
options:
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
    description: Identity of the host that the edge belongs to. Empty leaves it as it is.
    type: str
    default: ''
  metadata:
    description: Metadata of the edge, beside C(RelationType). Keys that are not named are left as they are; one that is null is removed.
    type: dict
    default: {}
  state:
    description: Whether the edge shall exist.
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
- name: The switch is wired to eth0 of host1
  skydive_edge:
    node1: "{{ tor1.UUID }}"
    node2: G.V().Has('Name', 'host1', 'Type', 'host').Out().Has('Name', 'eth0')
    relation_type: layer2
    metadata:
      Cable: blue

- name: The cable is pulled
  skydive_edge:
    node1: G.V().Has('Name', 'tor1')
    node2: G.V().Has('Name', 'host1', 'Type', 'host').Out().Has('Name', 'eth0')
    relation_type: layer2
    state: absent
"""

RETURN = r"""
UUID:
  description:
    - Identifier of the edge. It is the UUID of version 5 of C(PARENT:CHILD:RELATION) in the namespace of object identifiers.
    - Null when a node that it needs does not exist.
  type: str
  returned: success
  sample: 85b2b3b0-4a5c-5f1b-9ffb-0a8a5b0b9c39
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.skydive import CONNECTION, STATE, Ends, edge, ensure_one, run


def work(module, analyzer):
    params = module.params
    ends = Ends(module, analyzer, params["state"])
    wanted = edge(ends, params["node1"], params["node2"], params["relation_type"], params["host"], params["metadata"])
    return ensure_one(analyzer, "edge", wanted, params["state"])


def main():
    run(AnsibleModule(
        argument_spec=dict(
            CONNECTION,
            node1=dict(type="str", required=True),
            node2=dict(type="str", required=True),
            relation_type=dict(type="str", required=True),
            host=dict(type="str", default=""),
            metadata=dict(type="dict", default={}),
            state=STATE,
        ),
        supports_check_mode=True,
    ), work)


if __name__ == "__main__":
    main()
