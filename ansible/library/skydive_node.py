#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Keep a node in the topology of Skydive."""

DOCUMENTATION = r"""
module: skydive_node
short_description: Keep a node in the topology of Skydive
version_added: 1.0.0
author: The Skydive authors (@skydive-project)
description:
  - Creates, updates or removes one node, such as a switch that no agent sees.
  - The node stays until it is removed; it does not end with the play.
options:
  name:
    description: Name of the node.
    type: str
    required: true
  type:
    description: Type of the node, such as C(switch) or C(port). A C(netns) needs C(Path) in I(metadata), an C(ovsport) needs C(UUID).
    type: str
    required: true
  seed:
    description: What the identifier of the node is derived from, so that name and type may change. Without it they make the identifier.
    type: str
    default: ''
  host:
    description: Identity of the host that the node belongs to. Empty leaves it as it is.
    type: str
    default: ''
  metadata:
    description: Metadata of the node, beside C(Name) and C(Type). Keys that are not named are left as they are; one that is null is removed.
    type: dict
    default: {}
  state:
    description: Whether the node shall exist.
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
- name: A top-of-rack switch
  skydive_node:
    name: tor1
    type: switch
    metadata:
      Vendor: ACME
      Ports: 48
  register: tor1

- name: The same, on an analyzer that asks who calls
  skydive_node:
    analyzer: analyzer1.example.org:8082
    ssl: true
    ca_cert: /etc/ssl/certs/ca.domain.com.crt
    username: admin
    password: "{{ skydive_password }}"
    name: tor1
    type: switch
    seed: rack 12

- name: It is gone
  skydive_node:
    name: tor1
    type: switch
    state: absent
"""

RETURN = r"""
UUID:
  description: Identifier of the node. It is the UUID of version 5 of I(seed), or of C(NAME:TYPE), in the namespace of object identifiers.
  type: str
  returned: success
  sample: 17e882ef-52dd-5b75-bad7-64947da7ae0d
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.skydive import CONNECTION, STATE, ensure_one, node, run


def work(module, analyzer):
    params = module.params
    wanted = node(params["name"], params["type"], params["seed"], params["host"], params["metadata"])
    return ensure_one(analyzer, "node", wanted, params["state"])


def main():
    run(AnsibleModule(
        argument_spec=dict(
            CONNECTION,
            name=dict(type="str", required=True),
            type=dict(type="str", required=True),
            seed=dict(type="str", default=""),
            host=dict(type="str", default=""),
            metadata=dict(type="dict", default={}),
            state=STATE,
        ),
        supports_check_mode=True,
    ), work)


if __name__ == "__main__":
    main()
