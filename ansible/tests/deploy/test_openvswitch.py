"""Hosts with Open vSwitch: the agent, which is not root, sees its bridges in every mode, with no more privilege than that takes."""

import re
import unittest

import lab
import matrix

DAC_OVERRIDE = 1 << 1
# A bridge with two machines, which are namespaces; vm1's end is called as Nova does it.
MACHINES = r"""
set -e
ovs-vsctl add-br br0 -- set bridge br0 datapath_type=netdev
for number in 1 2; do
    ip netns add vm$number
    ip link add tap$number type veth peer name eth0 netns vm$number
    ip link set tap$number up
    ip -n vm$number address add 10.3.0.$number/24 dev eth0
    ip -n vm$number link set eth0 up
    ovs-vsctl add-port br0 tap$number -- set interface tap$number external_ids:iface-id=port-$number
done
"""


class OpenVSwitch(lab.Case):
    HOSTS = {"h1": "bookworm-podman-openvswitch"}

    def deploy(self, mode, variables=None, **options):
        matrix.built(matrix.TARGETS[mode])
        return self.lab.play(lab.PLAYBOOK, self.lab.inventory([self.h1], [self.h1], {
            "skydive_listen_ip": "127.0.0.1", **matrix.MODES[mode][0], **(variables or {})}), **options)

    def query(self, gremlin):
        return self.h1.http("http://127.0.0.1:8082/api/topology", body={"GremlinQuery": gremlin})

    def sees(self, want, gremlin, seconds=20):
        lab.wait(lambda: self.query(gremlin) == want, seconds, lambda: "%s for %s, but %s\n%s" % (
            want, gremlin, self.query(gremlin), self.probe()))

    def probe(self):
        return self.h1.http("http://127.0.0.1:8081/api/status")["TopologyProbes"]["ovsdb"]

    def capabilities(self):
        """Of the agent: whatever mode it runs in, it is the program skydive with the word agent."""
        script = "for pid in $(pgrep -x skydive); do grep -qz '^agent$' /proc/$pid/cmdline && sed -n 's/^CapEff:.//p' /proc/$pid/status; done"
        return int(self.h1.output(script), 16)

    def test_1_without_open_vswitch_no_capability_is_given(self):
        self.h1.run("systemctl stop openvswitch-switch ovs-vswitchd ovsdb-server && chmod 0 /usr/sbin/ovs-vswitchd")
        self.deploy("binary")
        self.assertFalse(self.capabilities() & DAC_OVERRIDE)
        self.assertEqual(self.probe()["Status"], "absent")
        self.h1.run("chmod 0755 /usr/sbin/ovs-vswitchd && systemctl start openvswitch-switch")
        self.h1.run(MACHINES)
        self.h1.run("systemctl restart skydive-agent")
        lab.wait(lambda: self.h1.listens(8081) and "permission denied" in self.probe().get("Reason", ""), 20, lambda: "what to do about it: %s" % self.probe())

    def test_2_binary(self):
        self.assertEqual({task.rpartition(" : ")[2] for task in self.deploy("binary").tasks if "estart" not in task}, {"Service definition"})
        self.assertUnchanged(self.deploy("binary"))
        self.assertTrue(self.capabilities() & DAC_OVERRIDE)
        text = self.h1.output("systemd-analyze", "security", "--no-pager", "skydive-agent")
        self.assertLessEqual(float(re.search(r"exposure level.*: ([\d.]+) ", text).group(1)), 4.0)
        self.bridges()
        self.counts_a_ping()

    def test_3_another_probe_alone_gets_none(self):
        self.deploy("binary", {"skydive_topology_probes": ["neutron"]})
        self.assertFalse(self.capabilities() & DAC_OVERRIDE)

    def test_4_group_that_may_write(self):
        """An Open vSwitch whose sockets a group may write to: membership does instead of the capability."""
        self.h1.run("groupadd --system --gid 801 switches && chgrp switches /run/openvswitch/*.* && chmod g+w /run/openvswitch/*.*")
        self.deploy("binary")
        self.assertFalse(self.capabilities() & DAC_OVERRIDE)
        self.bridge("br0", True)
        self.h1.run("systemctl restart openvswitch-switch && groupdel switches")

    def test_5_package(self):
        self.deploy("package")
        self.assertTrue(self.capabilities() & DAC_OVERRIDE)
        self.bridges()

    def test_6_container(self):
        """There the agent is root, who owns the sockets."""
        self.deploy("podman")
        self.assertFalse(self.capabilities() & DAC_OVERRIDE)
        self.bridges()
        self.counts_a_ping()

    def test_7_reset(self):
        self.lab.play(lab.RESET, self.lab.inventory([self.h1], [self.h1]), {"skydive_reset_data": True})
        self.assertEqual(self.h1.output("ovs-vsctl show | grep -c skydive", check=False), "0")

    def bridge(self, name, there):
        self.sees(int(there), "G.V().Has('Type', 'ovsbridge', 'Name', '%s').Count()" % name)

    def bridges(self):
        """What there is, what appears, and what does after Open vSwitch was started anew."""
        self.sees(2, "G.V().Has('Type', 'ovsbridge', 'Name', 'br0').Out('Type', 'ovsport').Out().Has('ExtID.iface-id', Regex('port-.')).Dedup().Count()")
        self.h1.run("ovs-vsctl add-br br1 -- set bridge br1 datapath_type=netdev")
        self.bridge("br1", True)
        self.h1.run("systemctl restart openvswitch-switch && ovs-vsctl del-br br1")
        self.bridge("br1", False)
        self.bridge("br0", True)

    def counts_a_ping(self):
        """By a mirror, which is there only as long as the capture."""
        capture = self.h1.http("http://127.0.0.1:8082/api/capture", body={
            "GremlinQuery": "G.V().Has('Type', 'ovsport', 'Name', 'tap1')", "Type": "ovsmirror"})["UUID"]
        lab.wait(lambda: self.h1.output("ovs-vsctl --columns=name list mirror"), 20, "a mirror")
        flows = "G.Flows().Has('Network.A', '10.3.0.1', 'Network.B', '10.3.0.2', 'Application', 'ICMPv4').Values('Metric.ABPackets')"

        def counted():
            self.h1.run("ip netns exec vm1 ping -c 3 -i 0.1 10.3.0.2", check=False)
            return (self.query(flows) or [0])[0]
        lab.wait(counted, 30, lambda: "a flow: %s" % self.query("G.Flows()"))
        self.h1.run("python3", "-c", "import urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:8082/api/capture/%s', method='DELETE'))" % capture)
        lab.wait(lambda: not self.h1.output("ovs-vsctl --columns=name list mirror"), 20, "the end of the mirror")


if __name__ == "__main__":
    unittest.main()
