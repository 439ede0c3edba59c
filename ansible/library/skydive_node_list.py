#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Keep several nodes in the topology of Skydive."""

DOCUMENTATION = r"""
module: skydive_node_list
short_description: Keep several nodes in the topology of Skydive
version_added: 1.0.0
author: The Skydive authors (@skydive-project)
description:
  - Does what C(skydive_node) does, for many nodes over one connection.
  - At a failure the nodes before it are done, and the rest is left alone.
options:
  nodes:
    description: The nodes.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the node.
        type: str
        required: true
      type:
        description: Type of the node.
        type: str
        required: true
      seed:
        description: What the identifier of the node is derived from, instead of name and type.
        type: str
        default: ''
      host:
        description: Identity of the host that the node belongs to, instead of I(host) of all.
        type: str
        default: ''
      metadata:
        description: Metadata of the node. Keys that are not named are left as they are; one that is null is removed.
        type: dict
        default: {}
  host:
    description: Identity of the host that the nodes belong to. Empty leaves it as it is.
    type: str
    default: ''
  state:
    description: Whether the nodes shall exist.
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
- name: The switches of a row
  skydive_node_list:
    nodes:
      - name: tor1
        type: switch
      - name: tor2
        type: switch
        metadata:
          Ports: 48
  register: row
"""

RETURN = r"""
UUID:
  description: Identifiers of the nodes, in the order of I(nodes).
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.skydive import CONNECTION, STATE, ensure_all, node, run


def work(module, analyzer):
    params = module.params
    wanted = [node(n["name"], n["type"], n["seed"], n["host"] or params["host"], n["metadata"]) for n in params["nodes"]]
    return ensure_all(analyzer, "node", wanted, params["state"])


def main():
    run(AnsibleModule(
        argument_spec=dict(
            CONNECTION,
            nodes=dict(type="list", elements="dict", required=True, options=dict(
                name=dict(type="str", required=True),
                type=dict(type="str", required=True),
                seed=dict(type="str", default=""),
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
