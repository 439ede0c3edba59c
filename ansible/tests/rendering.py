"""Renders what the roles would write, with real Ansible and without a host: inventory and facts in, values of variables out."""

import base64
import json
import os
import pathlib
import tempfile

os.environ.setdefault("ANSIBLE_LOCAL_TEMP", tempfile.gettempdir())

from ansible import __version__ as ANSIBLE
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play import Play
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager

import variables

try:
    from ansible.plugins.loader import init_plugin_loader
    init_plugin_loader([])
except ImportError:  # before 2.15
    pass
try:
    from ansible.template import trust_as_template
except ImportError:  # before 2.19 every string is a template
    def trust_as_template(text):
        return text

# What an earlier run generated.
CREDENTIALS = "skydive_password: G1\nskydive_cluster_password: G2\nskydive_os_service_password: G3\n"
FACTS = pathlib.Path(__file__).parent / "facts"


def facts(name):
    return json.loads((FACTS / (name + ".json")).read_text())


def facts_of(hostname, address, interface="eth0", **more):
    """Facts of a Debian 12 with that name and address."""
    return {**facts("debian-12"), "hostname": hostname, "default_ipv4": {"address": address, "interface": interface},
            interface: {"ipv4": {"address": address}}, **more}


class Deployment:
    """An inventory with the roles applied: Deployment({"h1": facts}, ["h1"], ["h1"], {"skydive_…": …})."""

    def __init__(self, hosts, analyzers=(), agents=(), variables_of_all=None, variables_of_hosts=None, look=()):
        inventory = {"all": {"vars": variables_of_all or {}, "hosts": {name: (variables_of_hosts or {}).get(name, {}) for name in hosts},
                             "children": {"analyzers": {"hosts": dict.fromkeys(analyzers, {})}, "agents": {"hosts": dict.fromkeys(agents, {})}}}}
        with tempfile.TemporaryDirectory() as work:
            path = pathlib.Path(work, "hosts.json")
            path.write_text(json.dumps(inventory))
            self.load(path, hosts.get, look)

    @classmethod
    def of(cls, path, known):
        """An inventory as it is; every host has the facts given."""
        self = cls.__new__(cls)
        self.load(path, lambda name: known, ())
        return self

    def load(self, path, facts_by_name, look):
        self.loader = DataLoader()
        self.manager = InventoryManager(self.loader, sources=[str(path)])
        self.variables = VariableManager(self.loader, self.manager)
        self.variables.hostvars = HostVars(self.manager, self.variables, self.loader)
        self.names = [host.name for host in self.manager.get_hosts()]
        for name in self.names:
            self.variables.set_host_facts(name, facts_by_name(name))
            self.variables.set_nonpersistent_facts(name, {
                "_skydive_look": {"stdout_lines": ["capbnd 000001ffffffffff", "systemd", *look]},
                "_skydive_firewall_look": {"stdout": "none"},
                "_skydive_credentials_old": {"content": base64.b64encode(CREDENTIALS.encode()).decode()}})
        self.play = Play.load({"hosts": "all", "gather_facts": False, "roles": [{"role": str(variables.ROLE)}]},
                              variable_manager=self.variables, loader=self.loader)

    def value(self, host, expression, **more):
        """What {{ expression }} is on that host, where more are further variables."""
        known = self.variables.get_vars(play=self.play, host=self.manager.get_host(host))
        known.update(role_path=str(variables.ROLE), ansible_version={"full": ANSIBLE}, ansible_play_hosts_all=self.names, **more)
        answer = Templar(self.loader, variables=known).template(trust_as_template("{{ %s }}" % expression))
        return json.loads(json.dumps(answer, default=list))
