#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Ask Skydive for a part of the topology."""

DOCUMENTATION = r"""
module: skydive_query
short_description: Ask Skydive for a part of the topology
version_added: 1.0.0
author: The Skydive authors (@skydive-project)
description:
  - Asks an analyzer a Gremlin question. Nothing is changed.
options:
  query:
    description: Gremlin expression.
    type: str
    required: true
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
    description: Asks as ever; a question changes nothing.
    support: full
  diff_mode:
    description: There is never a difference.
    support: none
notes:
  - The host that runs the module must reach the analyzer. It needs Python 3.6 or newer, and nothing but its standard library.
"""

EXAMPLES = r"""
- name: Which interfaces are up
  skydive_query:
    query: G.V().Has('State', 'UP')
  register: up

- name: Their names
  ansible.builtin.debug:
    msg: "{{ up.nodes | map(attribute='Metadata.Name') }}"

- name: How many namespaces there are
  skydive_query:
    query: G.V().Has('Type', 'netns').Count()
  register: namespaces

- name: At least one
  ansible.builtin.assert:
    that: namespaces.result > 0
"""

RETURN = r"""
nodes:
  description:
    - The nodes and edges of the answer, each with C(ID), C(Metadata), C(Host), C(Origin), C(CreatedAt), C(UpdatedAt), C(DeletedAt) and
      C(Revision); edges also with C(Parent) and C(Child). Of a graph, such as that of C(G), the nodes.
    - Empty when the answer is made of something else, such as values or a count.
  type: list
  elements: dict
  returned: success
result:
  description: The answer as the analyzer gave it, whatever it is made of; an empty list for null.
  type: raw
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.skydive import CONNECTION, run


def elements(result):
    if not isinstance(result, list):
        return []
    if len(result) == 1 and isinstance(result[0], dict) and "Nodes" in result[0] and "Edges" in result[0]:
        return result[0]["Nodes"] or []
    return [e for e in result if isinstance(e, dict) and "ID" in e and "Metadata" in e]


def work(module, analyzer):
    result = analyzer.query(module.params["query"])
    return dict(changed=False, nodes=elements(result), result=result)


def main():
    run(AnsibleModule(
        argument_spec=dict(CONNECTION, query=dict(type="str", required=True)),
        supports_check_mode=True,
    ), work)


if __name__ == "__main__":
    main()
