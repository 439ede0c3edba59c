"""From an undercloud to a counted ping: what the walk-through of tripleo/README.md says, on hosts that an overcloud could have.

The undercloud is the host of beside.py: its Keystone and Heat are real, and it has the registry that the overcloud's hosts pull from;
Skopeo runs there, with the lines of the walk-through. Nothing of the generated inventory is changed. Neutron's ports are plugged into
Open vSwitch as Nova does it, a network namespace standing for each instance.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import stat
import subprocess
import tempfile
import unittest
import urllib.request

import testbed
from testbed import lab

CONTROLLER, COMPUTE = "overcloud-controller-0", "overcloud-novacompute-0"
PINGS = 20
IMAGE = lab.ROOT / "build" / "images" / "skydive.tar"
# Not the ports of the documentation, where something else may listen: what stands for docker.io, and for 192.168.24.1:8787.
FAR, LOCAL = 5151, 8787
CONFIGURATION = "version: 0.1\nstorage: {{filesystem: {{rootdirectory: /var/lib/registry-{port}}}}}\nhttp: {{addr: ':{port}'}}\n"

# As whom TripleO's hosts are reached.
HEAT_ADMIN = r"""
set -e
useradd -m -s /bin/bash heat-admin
echo 'heat-admin ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/heat-admin
cp -r ~root/.ssh /home/heat-admin/
chown -R heat-admin: /home/heat-admin/.ssh
"""
# What Nova and Neutron's agent do for an instance: its interface is a port of br-int, which tells by its external ids whose it is.
PLUG = r"""
set -e
ip netns add {name}
ip link add {tap} mtu 1450 type veth peer name eth0 address {mac} netns {name}
ip link set {tap} up
ip -n {name} address add {address}/24 dev eth0
ip -n {name} link set eth0 up
ip -n {name} link set lo up
ovs-vsctl add-port br-int {tap} -- set Interface {tap} external_ids:iface-id={port} external_ids:attached-mac={mac} \
    external_ids:iface-status=active external_ids:vm-uuid={instance}
"""


def documented(language):
    """The blocks of code of the walk-through, in a language."""
    return re.findall(r"```%s\n(.*?)```" % language, (lab.ROOT / "tripleo" / "README.md").read_text(), re.DOTALL)


class Chain(lab.Case):
    HOSTS = {}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cloud = testbed.running()
        cls.cloud.roles = {role["name"]: role["id"] for role in cls.cloud.ask("GET", "identity", "/v3/roles")["roles"]}
        cls.undercloud = shlex.split(os.environ["SKYDIVE_TEST_OPENSTACK_SHELL"])
        cls.address = os.environ["SKYDIVE_TEST_OPENSTACK_ADDRESS"]
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="skydive-chain-"))
        cls.addClassCleanup(shutil.rmtree, cls.work)
        cls.inventory = cls.work / "skydive-inventory.yaml"
        cls.controller, cls.compute = cls.lab.hosts(**{CONTROLLER: testbed.COMPUTE, COMPUTE: testbed.COMPUTE})
        for host in (cls.controller, cls.compute):
            host.run(HEAT_ADMIN)
            host.write("/etc/containers/registries.conf.d/undercloud.conf", '[[registry]]\nlocation = "%s:%d"\ninsecure = true\n' % (cls.address, LOCAL))
        for port in (FAR, LOCAL):
            cls.on_undercloud("rm -rf /var/lib/registry-{port}; cat >/run/registry-{port}.yml && systemd-run -q --collect --unit registry-{port} "
                              "docker-registry serve /run/registry-{port}.yml".format(port=port), input=CONFIGURATION.format(port=port))
            cls.addClassCleanup(cls.on_undercloud, "systemctl stop registry-%d" % port)
            lab.wait(lambda port=port: cls.repositories(port) is not None, 30, "the registry at port %d" % port)

    @classmethod
    def on_undercloud(cls, command, **options):
        return lab.run([*cls.undercloud, command], **options).stdout

    @classmethod
    def repositories(cls, port):
        try:
            with urllib.request.urlopen("http://%s:%d/v2/_catalog" % (cls.address, port), timeout=5) as answer:
                return sorted(json.load(answer)["repositories"])
        except OSError:
            return None

    def test_1_skopeo_copies_the_images(self):
        with open(IMAGE, "rb") as image:
            subprocess.run([*self.undercloud, "cat >/root/skydive.tar"], stdin=image, check=True, timeout=60)
        lines = [line for block in documented("sh") for line in block.replace("\\\n", " ").splitlines() if line.startswith("skopeo copy")]
        self.assertEqual(len(lines), 4)
        copies = [line for line in lines if "docker.io/kolla" in line]
        self.assertEqual(len(copies), 2)
        for line in copies:
            self.assertIn("--dest-tls-verify=false --src-tls-verify=false", line)
            # What the far registry has.
            name = re.search(r"docker\.io/(\S+)", line).group(1)
            self.on_undercloud("skopeo copy --dest-tls-verify=false docker-archive:/root/skydive.tar docker://127.0.0.1:%d/%s" % (FAR, name))
            self.on_undercloud(line.replace("docker.io", "127.0.0.1:%d" % FAR).replace("192.168.24.1:8787", "127.0.0.1:%d" % LOCAL))
        for line in set(lines) - set(copies):
            self.on_undercloud(line.replace("build/images", "/root").replace("192.168.24.1:8787", "127.0.0.1:%d" % LOCAL))
        self.assertEqual(self.repositories(FAR), ["kolla/centos-binary-skydive-agent", "kolla/centos-binary-skydive-analyzer"])
        self.assertEqual(self.repositories(LOCAL), ["kolla/openstack-skydive-agent", "kolla/openstack-skydive-analyzer",
                                                    "rhosp15/openstack-skydive-agent", "rhosp15/openstack-skydive-analyzer"])

    def test_2_the_inventory(self):
        plan = self.lab.prefix
        stack = self.cloud.tripleo({"Controller": {CONTROLLER: self.controller.address}, "Compute": {COMPUTE: self.compute.address}}, plan)
        project = self.cloud.ask("GET", "identity", "/v3/projects?name=admin")["projects"][0]["id"]
        self.addClassCleanup(self.cloud.ask, "DELETE", "orchestration", "/v1/%s/stacks/%s/%s" % (project, plan, stack))
        parameters, extra = self.work / "undercloud_parameters.yaml", self.work / "extra.yaml"
        parameters.write_text("parameter_defaults:\n  DockerInsecureRegistryAddress: ['%s:%d']\n" % (self.address, LOCAL))
        extra.write_text([block for block in documented("yaml") if "kolla" in block][0])
        environ = {"PATH": os.environ["PATH"], "OS_AUTH_URL": self.cloud.url, "OS_USERNAME": "admin", "OS_PASSWORD": testbed.PASSWORD,
                   "OS_PROJECT_NAME": "admin", "OS_REGION_NAME": self.cloud.region, "TRIPLEO_PLAN_NAME": plan}
        done = lab.run(["python3", lab.ROOT / "tripleo" / "skydive-tripleo-inventory", "--undercloud-params", parameters, "--extra-file", extra],
                       cwd=self.work, env=environ)
        self.assertEqual((done.stdout, done.stderr), ("", ""))
        self.assertEqual(stat.S_IMODE(self.inventory.stat().st_mode), 0o600)
        listed = json.loads(lab.run(["ansible-inventory", "-i", self.inventory, "--list"]).stdout)
        self.assertEqual((listed["analyzers"]["hosts"], listed["agents"]["hosts"]), ([CONTROLLER], [CONTROLLER, COMPUTE]))
        self.assertEqual(listed["_meta"]["hostvars"][COMPUTE]["os_password"], testbed.PASSWORD)

    def play(self, **options):
        return self.lab.play(lab.PLAYBOOK, self.inventory, environ={
            "ANSIBLE_PRIVATE_KEY_FILE": str(lab.key()), "ANSIBLE_HOST_KEY_CHECKING": "False",
            "ANSIBLE_SSH_COMMON_ARGS": self.lab.connection()["ansible_ssh_common_args"]}, **options)

    def test_3_the_inventory_deploys(self):
        self.compute.run("ovs-vsctl add-br br-int -- set bridge br-int datapath_type=netdev fail_mode=standalone")
        self.play()
        self.assertUnchanged(self.play())
        image = self.compute.output("podman inspect -f '{{.ImageName}}' skydive-agent-" + COMPUTE, env={"PODMAN_IGNORE_CGROUPSV1_WARNING": "1"})
        self.assertEqual(image, "%s:%d/kolla/openstack-skydive-agent:latest" % (self.address, LOCAL))

    # A user

    def client(self, *words, user="", password="", check=True):
        """The command line client of this checkout, as somebody Keystone knows; what it prints, as JSON."""
        if not user:
            user, password = "skydive", self.controller.output("sed -n 's/^skydive_password: //p' /etc/skydive/credentials.yml")
        environ = {"PATH": os.environ["PATH"], "SKYDIVE_ANALYZER": self.controller.address + ":8082", "SKYDIVE_USERNAME": user, "SKYDIVE_PASSWORD": password}
        done = lab.run([lab.ROOT / "build" / "skydive", "client", *words], env=environ, check=check)
        return json.loads(done.stdout or "null") if check else done

    def instance(self, name):
        """A port in Neutron and what is plugged in for it."""
        uuid = {"one": "11111111-1111-4111-8111-111111111111", "two": "22222222-2222-4222-8222-222222222222"}[name]
        port = self.cloud.ask("POST", "network", "/v2.0/ports", {"port": {
            "name": "chain-" + name, "network_id": os.environ["SKYDIVE_TEST_OPENSTACK_NETWORK_PRIVATE"], "device_owner": "compute:nova",
            "device_id": uuid, "binding:host_id": COMPUTE}})["port"]
        self.addClassCleanup(self.cloud.ask, "DELETE", "network", "/v2.0/ports/" + port["id"])
        address = [fixed["ip_address"] for fixed in port["fixed_ips"] if "." in fixed["ip_address"]][0]
        self.compute.run(PLUG.format(name=name, tap="tap" + port["id"][:11], mac=port["mac_address"], address=address, port=port["id"], instance=uuid))
        return {"id": port["id"], "tap": "tap" + port["id"][:11], "address": address, "network": port["network_id"]}

    def test_4_a_user_of_keystone_finds_an_instance_by_its_port(self):
        type(self).one, type(self).two = self.instance("one"), self.instance("two")
        question = "G.V().Has('Neutron.PortID', '%s')" % self.one["id"]

        def found():
            return self.client("query", question)
        nodes = lab.wait(found, 60, lambda: "an answer to %s\n%s" % (question, self.compute.journal("skydive-agent")))
        taps = [node for node in nodes if node["Metadata"]["Name"] == self.one["tap"] and node["Metadata"]["Type"] != "ovsport"]
        self.assertEqual(len(taps), 1, nodes)
        tap = taps[0]
        self.assertEqual((tap["Host"], tap["Metadata"]["Manager"]), (COMPUTE, "neutron"))
        self.assertEqual((tap["Metadata"]["Neutron"]["NetworkID"], tap["Metadata"]["Neutron"]["NetworkName"]), (self.one["network"], "private"))
        self.assertIn(self.one["address"], " ".join(tap["Metadata"]["Neutron"]["IPV4"]))
        self.assertEqual(tap["Metadata"]["ExtID"]["iface-id"], self.one["id"])
        # Another user of the project sees the same; one of another project nothing.
        ann = "ann-" + self.lab.prefix
        self.cloud.user(ann, "p4ss", "skydive", "member")
        self.assertEqual([node["ID"] for node in self.client("query", question, user=ann, password="p4ss")], [node["ID"] for node in nodes])
        refused = self.client("query", question, user=testbed.MEMBER, password=testbed.MEMBER, check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertNotIn(self.one["id"], refused.stdout)

    def test_5_a_capture_on_the_bridge_counts_a_ping(self):
        bridge = "G.V().Has('Type', 'ovsbridge', 'Name', 'br-int')"
        self.client("capture", "create", "--gremlin", bridge)
        lab.wait(lambda: self.client("query", bridge + ".Has('Captures.State', 'active')"), 60,
                 lambda: "an active capture: %s" % self.client("query", bridge))
        self.compute.run("ip netns exec one ping -q -c %d -i 0.1 %s" % (PINGS, self.two["address"]))
        flows = "G.Flows().Has('Network.A', '%s', 'Network.B', '%s', 'Application', 'ICMPv4')" % (self.one["address"], self.two["address"])

        def counted():
            return sum(flow["Metric"]["ABPackets"] + flow["Metric"]["BAPackets"] for flow in self.client("query", flows) or [])
        lab.wait(lambda: counted() >= 2 * PINGS, 60, lambda: "%d requests and replies, but %d packets: %s" % (PINGS, counted(), self.client("query", flows)))
        self.assertEqual(counted(), 2 * PINGS)


if __name__ == "__main__":
    unittest.main()
