"""The filters of the roles."""

import importlib.util
import unittest

import variables

SPEC = importlib.util.spec_from_file_location("skydive_filters", variables.ROLE / "filter_plugins" / "skydive.py")
filters = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(filters)


class Overlay(unittest.TestCase):
    BASE = {"agent": {"listen": "127.0.0.1:8081", "topology": {"probes": ["ovsdb"]}}, "etcd": {"embedded": True}}

    def over(self, extra):
        return filters.overlay(self.BASE, extra)

    def test_dotted_keys_make_the_levels_they_need(self):
        self.assertEqual(self.over({"logging.level": "DEBUG"})["logging"], {"level": "DEBUG"})

    def test_lists_are_replaced(self):
        self.assertEqual(self.over({"agent.topology.probes": ["docker"]})["agent"]["topology"]["probes"], ["docker"])

    def test_maps_are_merged_at_every_depth(self):
        agent = self.over({"agent": {"topology": {"netlink": {"metrics_update": 5}}}})["agent"]
        self.assertEqual(agent["listen"], "127.0.0.1:8081")
        self.assertEqual(agent["topology"], {"probes": ["ovsdb"], "netlink": {"metrics_update": 5}})

    def test_names_inside_a_map_keep_their_dots(self):
        self.assertEqual(self.over({"auth.api.users": {"ann.b": "x"}})["auth"]["api"]["users"], {"ann.b": "x"})

    def test_null_removes(self):
        self.assertNotIn("listen", self.over({"agent.listen": None})["agent"])
        self.assertNotIn("listen", self.over({"agent": {"listen": None}})["agent"])

    def test_a_scalar_gives_way_to_a_level(self):
        self.assertEqual(self.over({"etcd.embedded.x": 1})["etcd"], {"embedded": {"x": 1}})

    def test_types_are_kept(self):
        self.assertEqual(self.over({"auth.a.users": {"bob": "123"}})["auth"]["a"]["users"], {"bob": "123"})

    def test_a_string_may_hold_the_dict(self):
        self.assertEqual(self.over("{'etcd.embedded': false}")["etcd"], {"embedded": False})

    def test_the_base_is_not_changed(self):
        extra = {"agent.topology.probes": ["docker"], "x": {"y": []}}
        self.over(extra)["x"]["y"].append(1)
        self.assertEqual(self.BASE["agent"]["topology"]["probes"], ["ovsdb"])
        self.assertEqual(extra["x"], {"y": []})


class Values(unittest.TestCase):
    def test_prune_keeps_what_says_something(self):
        self.assertEqual(filters.prune({"a": "", "b": {"c": [], "d": {"e": None}}, "f": False, "g": 0}), {"f": False, "g": 0})

    def test_endpoint(self):
        self.assertEqual(filters.endpoint("10.0.0.4", "8082"), "10.0.0.4:8082")
        self.assertEqual(filters.endpoint("fd00::1", 8082), "[fd00::1]:8082")
        self.assertEqual(filters.endpoint("[fd00::1]", 8082), "[fd00::1]:8082")

    def test_list(self):
        for value in (["a", "b"], "a,b", "a b", " a, b "):
            self.assertEqual(filters.as_list(value), ["a", "b"])
        self.assertEqual(filters.as_list(None), [])

    def test_unknown_names(self):
        (sentence,) = filters.unknown_names(["skydive_analyser_port", "skydive_nic"], ["skydive_analyzer_port", "skydive_nic"])
        self.assertEqual(sentence, "skydive_analyser_port is not a variable of these roles; did you mean skydive_analyzer_port?")


class Hosts(unittest.TestCase):
    FACTS = {
        "default_ipv4": {"address": "192.0.2.1"},
        "eth1": {"ipv4": {"address": "192.0.2.2"}},
        "br_ex": {"ipv6": [{"address": "fe80::1", "scope": "link"}, {"address": "fd00::2", "scope": "global"}]},
        "lo0": {},
    }

    def test_nic_by_both_of_its_names(self):
        self.assertEqual(filters.nic_address(self.FACTS, "eth1"), "192.0.2.2")
        self.assertEqual(filters.nic_address(self.FACTS, "ansible_eth1"), "192.0.2.2")
        self.assertEqual(filters.nic_address(self.FACTS, "br-ex"), "fd00::2")
        for none in ("", None, "eth9", "lo0"):
            self.assertEqual(filters.nic_address(self.FACTS, none), "")

    def test_reach(self):
        host = {"ansible_facts": self.FACTS, "inventory_hostname": "h1"}
        self.assertEqual(filters.reach(host), "192.0.2.1")
        self.assertEqual(filters.reach({**host, "skydive_nic": "eth1"}), "192.0.2.2")
        self.assertEqual(filters.reach({**host, "skydive_listen_ip": "0.0.0.0"}), "192.0.2.1")
        self.assertEqual(filters.reach({**host, "skydive_listen_ip": "127.0.0.1"}), "127.0.0.1")
        self.assertEqual(filters.reach({**host, "skydive_analyzer_ip": "fd00::1", "skydive_listen_ip": "::"}), "fd00::1")
        self.assertEqual(filters.reach({"inventory_hostname": "h1"}), "h1")

    def test_capabilities(self):
        wanted = ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_BPF"]
        self.assertEqual(filters.capabilities(wanted, "000001ffffffffff"), wanted)
        self.assertEqual(filters.capabilities(wanted, "00000000a82435fb"), ["CAP_NET_ADMIN", "CAP_SYS_ADMIN"])
        self.assertEqual(filters.capabilities(wanted, ""), [])


class Service(unittest.TestCase):
    VALUES = {"service": "agent", "user": "sky", "group": "net", "binary": "/opt/skydive", "config": "/etc/s.yml", "capabilities": ["CAP_NET_RAW"]}

    def render(self, path):
        return filters.service((variables.ROLE / "files" / "packaging" / path).read_text(), self.VALUES)

    def test_unit(self):
        unit = self.render("systemd/skydive-agent.service").splitlines()
        for line in ("User=sky", "Group=net", "CapabilityBoundingSet=CAP_NET_RAW", "AmbientCapabilities=CAP_NET_RAW",
                     "ExecStart=/opt/skydive agent $SKYDIVE_AGENT_OPTIONS --conf /etc/s.yml"):
            self.assertIn(line, unit)

    def test_the_analyzer_gets_no_capability(self):
        unit = self.render("systemd/skydive-analyzer.service").splitlines()
        self.assertIn("CapabilityBoundingSet=", unit)
        self.assertIn("AmbientCapabilities=", unit)

    def test_init_script(self):
        script = self.render("init/skydive").splitlines()
        for line in ("SERVICE=agent", "USER=sky", "GROUP=net", "BINARY=/opt/skydive", "CONFIG=/etc/s.yml", "# Provides:          skydive-agent"):
            self.assertIn(line, script)


if __name__ == "__main__":
    unittest.main()
