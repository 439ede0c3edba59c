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


class Unmade(unittest.TestCase):
    OWNERS = {"/etc/skydive": "root", "/var/lib/skydive": "skydive"}

    def unmade(self, *look):
        return filters.unmade(["/etc/skydive", "/srv/my conf"], look, self.OWNERS, "skydive")

    def test_what_is_as_it_should_be_costs_no_round_trip(self):
        self.assertEqual(self.unmade("systemd", "directory root:skydive 750 /etc/skydive", "directory ann:users 755 /srv/my conf"), [])

    def test_missing_or_other_is_made(self):
        self.assertEqual(self.unmade(), ["/etc/skydive", "/srv/my conf"])
        for line in ("root:skydive 755", "root:root 750", "skydive:skydive 750"):
            self.assertEqual(self.unmade("directory %s /etc/skydive" % line), ["/etc/skydive", "/srv/my conf"], line)


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

    def test_open_vswitch(self):
        self.assertEqual(filters.ovsdb_socket({}), "/var/run/openvswitch/db.sock")
        self.assertEqual(filters.ovsdb_socket({"ovs.ovsdb": "unix:/srv/db.sock"}), "/srv/db.sock")
        self.assertEqual(filters.ovsdb_socket("{'ovs': {'ovsdb': 'tcp://127.0.0.1:6640'}}"), "")
        for line, wanted, user, want in (
                ("openvswitch 750 root 0", [], "skydive", "capability"),
                ("openvswitch 750 root 0", ["docker", "ovsdb"], "skydive", "capability"),
                ("openvswitch 750 root 0", ["docker"], "skydive", ""),  # not asked for
                ("openvswitch 750 root 0", [], "root", ""),
                ("openvswitch 750 openvswitch 801", [], "root", "capability"),
                ("openvswitch 770 openvswitch 801", [], "skydive", "group 801"),
                ("openvswitch 777 openvswitch 801", [], "skydive", ""),
                ("openvswitch", [], "skydive", "capability"),  # installed, not started yet
                ("systemd", [], "skydive", "")):
            self.assertEqual(filters.openvswitch(["capbnd 0", line], wanted, user), want, (line, wanted, user))


class Rules(unittest.TestCase):
    def test_a_fabric_is_a_list_or_a_string(self):
        for value in (["A -> B[MTU=1, X=2]", "B -> C"], "A -> B[MTU=1, X=2]\nB -> C\n", "['A -> B[MTU=1, X=2]', 'B -> C']"):
            self.assertEqual(filters.rules(value), ["A -> B[MTU=1, X=2]", "B -> C"])
        for none in ("", [], None, "[]"):
            self.assertEqual(filters.rules(none), [])

    def test_a_host_without_facts_keeps_its_port(self):
        agents = [{}, {"ansible_facts": {"hostname": "b", "default_ipv4": {}, "default_ipv6": {"interface": "eth6"}}}, {"ansible_facts": {"hostname": "c"}}]
        self.assertEqual(filters.fabric(agents, "tor", 9000), ["TOR[Name=tor] -> TOR_PORT2[Name=port2, MTU=9000]", "TOR_PORT2 -> *[Type=host,Name=b]/eth6"])
        self.assertEqual(filters.fabric(agents, "tor", 9000, "x")[-1], "TOR_PORT3 -> *[Type=host,Name=c]/x")

    def test_what_a_firewall_lets_in(self):
        both = ["analyzer", "agent"]
        for listen, want in (("127.0.0.1:8082", []), ("localhost:8082", []), ("[::1]:8082", []), ("", []), ("[::]:8082", ["tcp 8082 any API port", "udp 8082 any flow port"])):
            self.assertEqual(filters.firewall_rules({"analyzer": {"listen": listen}}, [], both, False), want)
        self.assertEqual(filters.firewall_rules({"agent": {"listen": "10.0.0.1:1"}}, [], ["analyzer"], False), [])
        self.assertEqual(filters.firewall_rules({"analyzer": {"listen": "10.0.0.1:1"}, "tls": {"ca_cert": "x"}}, [], both, False), ["tcp 1 any API port"])
        etcd = {"etcd": {"listen": "10.0.0.1:5"}}
        self.assertEqual(filters.firewall_rules(etcd, ["10.0.0.2"], both, False), [])
        self.assertEqual(filters.firewall_rules(etcd, ["10.0.0.2"], both, True), ["tcp 5 10.0.0.2 embedded etcd port", "tcp 6 10.0.0.2 embedded etcd port"])

    def test_probes_that_do_not_run_are_named_with_their_reason(self):
        nodes = [{"Metadata": {"Name": "h1", "Probes": {"docker": {"Status": "absent", "Reason": "no socket"}, "neutron": {"Status": "failed", "Reason": "401"}, "netlink": {"Status": "running"}}}}, {"Metadata": {"Name": "h2"}}]
        self.assertEqual(filters.not_running(nodes), ["h1: probe docker is absent: no socket", "h1: probe neutron has failed: 401"])
        self.assertEqual(filters.not_running([]), [])

    def test_who_is_not_connected(self):
        hosts = [{"inventory_hostname": "web.example.org", "ansible_facts": {"hostname": "web"}}, {"inventory_hostname": "b"},
                 {"inventory_hostname": "c", "ansible_facts": {"hostname": "c"}, "skydive_extra_config": "{'host_id': 'other'}"}]
        self.assertEqual(filters.unconnected(hosts, ["web", "b", "other"]), [])
        self.assertEqual(filters.unconnected(hosts, ["b"]), ["web.example.org", "c"])
        self.assertEqual(filters.unconnected([], []), [])

    def test_where_a_host_asks_its_own_services(self):
        self.assertEqual(filters.local_url("0.0.0.0:8082", "/readyz", {}), "http://127.0.0.1:8082/readyz")
        self.assertEqual(filters.local_url("10.0.0.4:8082", "/", {"tls": {"client_cert": "c"}}), "http://10.0.0.4:8082/")
        self.assertEqual(filters.local_url("[::]:8082", "/", {"tls": {"server_cert": "c"}}), "https://127.0.0.1:8082/")

    def test_probes_that_variables_ask_for(self):
        self.assertEqual(filters.probes({"skydive_topology_probes": "a,b"}), ["a", "b"])
        self.assertEqual(filters.probes({"skydive_topology_probes": ["a"], "skydive_extra_config": {"agent.topology": {"probes": ["c"]}}}), ["c"])
        self.assertEqual(filters.probes({}), [])


class Service(unittest.TestCase):
    VALUES = {"service": "agent", "user": "sky", "group": "net", "binary": "/opt/skydive", "config": "/etc/s.yml", "capabilities": ["CAP_NET_RAW", "CAP_BPF"],
              "groups": "801"}

    def render(self, path):
        return filters.service((variables.ROLE / "files" / "packaging" / path).read_text(), self.VALUES)

    def test_unit(self):
        unit = self.render("systemd/skydive-agent.service").splitlines()
        for line in ("User=sky", "Group=net", "CapabilityBoundingSet=CAP_NET_RAW CAP_BPF", "AmbientCapabilities=CAP_NET_RAW CAP_BPF", "SupplementaryGroups=801",
                     "ExecStart=/opt/skydive agent $SKYDIVE_AGENT_OPTIONS --conf /etc/s.yml"):
            self.assertIn(line, unit)

    def test_the_analyzer_gets_no_capability(self):
        unit = self.render("systemd/skydive-analyzer.service").splitlines()
        self.assertIn("CapabilityBoundingSet=", unit)
        self.assertIn("AmbientCapabilities=", unit)

    def test_init_script(self):
        script = self.render("init/skydive").splitlines()
        for line in ("SERVICE=agent", "USER=sky", "GROUP=net", "BINARY=/opt/skydive", "CONFIG=/etc/s.yml", "# Provides:          skydive-agent",
                     'CAPABILITIES="net_raw bpf"'):
            self.assertIn(line, script)


class Packages(unittest.TestCase):
    UNIT = "[Service]\nUser=skydive\nGroup=skydive\nExecStart=/usr/bin/skydive agent --conf /etc/skydive/skydive.yml\nAmbientCapabilities=CAP_NET_RAW CAP_BPF\n"
    VALUES = {"service": "agent", "user": "skydive", "group": "skydive", "binary": "/usr/bin/skydive", "config": "/etc/skydive/skydive.yml",
              "capabilities": ["CAP_NET_RAW", "CAP_BPF"]}

    def test_a_drop_in_says_what_differs(self):
        self.assertEqual(filters.dropin(self.UNIT, self.VALUES), "")
        self.assertEqual(filters.dropin(self.UNIT, {**self.VALUES, "user": "net", "capabilities": ["CAP_NET_RAW"]}),
                         "[Service]\nUser=net\nAmbientCapabilities=\nAmbientCapabilities=CAP_NET_RAW\n")
        self.assertEqual(filters.dropin(self.UNIT, {**self.VALUES, "config": "/srv/s.yml"}),
                         "[Service]\nExecStart=\nExecStart=/usr/bin/skydive agent --conf /srv/s.yml\n")

    def test_what_a_host_takes(self):
        platforms = {"Debian": {"packages": "deb"}, "RedHat": {"packages": "rpm"}}
        for family, machine, kind, name in (("Debian", "x86_64", "deb/x86_64", "skydive_*_amd64.deb"), ("Debian", "aarch64", "deb/aarch64", "skydive_*_arm64.deb"),
                                            ("RedHat", "aarch64", "rpm/aarch64", "skydive-[0-9]*.aarch64.rpm")):
            host = {"ansible_facts": {"os_family": family, "architecture": machine}}
            self.assertEqual(filters.package_kind(host, platforms), kind)
            self.assertEqual(filters.package_patterns(kind)[0], name)

    def test_what_look_says_of_it(self):
        self.assertEqual(filters.package_lines(["deb/x86_64", "skydive", "1-1", "ab", "/x.deb"]), ["package skydive 1-1", "cached skydive ab"])

    def test_room(self):
        look = ["systemd", "space 2048 /usr/bin", "space 999999 /var"]
        self.assertEqual(filters.room("/usr/bin", look, 2), "")
        self.assertEqual(filters.room("/usr/bin", look, 100), "/usr/bin has 2 MiB free: this deployment needs 100 MiB there")
        self.assertEqual(filters.room("/var", look, 100), "")


class Images(unittest.TestCase):
    def test_a_name_may_carry_registry_tag_and_digest(self):
        for want, arguments in {
            "docker.io/skydive/skydive:latest": (""),
            "docker.io/skydive/skydive:v1": ("", "", "v1"),
            "localhost:5000/skydive/skydive:latest": ("", "localhost:5000"),
            "192.168.24.1:8787/kolla/openstack-skydive-agent:latest": ("kolla/openstack-skydive-agent:latest", "192.168.24.1:8787", "latest"),
            "r.example/a/b:2": ("a/b:2", "r.example/", "1"),
            "localhost/skydive/skydive:x": ("localhost/skydive/skydive", "docker.io", "x"),
            "r.example:5000/b:latest": ("r.example:5000/b", "docker.io"),
            "docker.io/a@sha256:ab": ("a@sha256:ab", "", "1"),
        }.items():
            self.assertEqual(filters.image(*([arguments] if isinstance(arguments, str) else arguments)), want)

    ARCHIVE = ['[{"Config":"blobs/sha256/%s","RepoTags":["localhost/s:1"],"Layers":[]}]' % ("c" * 64),
               '{"schemaVersion":2,"manifests":[{"digest":"sha256:%s"}]}' % ("a" * 64)]

    def test_an_archive_tells_names_and_what_engines_call_them(self):
        self.assertEqual(filters.archive(["built", *self.ARCHIVE]), {"localhost/s:1": ["c" * 64, "a" * 64]})
        self.assertEqual(filters.archive(['[{"Config":"%s.json","RepoTags":["a:1","b:1"]}]' % ("c" * 64)]), {"a:1": ["c" * 64], "b:1": ["c" * 64]})
        self.assertEqual(filters.archive([]), {})

    def test_what_a_host_has(self):
        look = ["systemd", "engine docker 20.10", "image docker skydive/skydive:1 sha256:c1 skydive/skydive@sha256:d1", "image podman localhost/s:1 c2 localhost/s@<none>",
                "image docker <none>:<none> c3 <none>@<none>"]
        self.assertEqual(filters.image_ids(look, "docker"), {"docker.io/skydive/skydive:1": "c1", "docker.io/skydive/skydive@sha256:d1": "c1"})
        self.assertEqual(filters.image_ids(look, "podman"), {"localhost/s:1": "c2"})

    def test_what_is_to_be_loaded(self):
        archived = filters.archive(self.ARCHIVE)
        for found, want in (({}, ["localhost/s:1"]), ({"localhost/s:1": "c" * 64}, []), ({"localhost/s:1": "a" * 64}, []), ({"localhost/s:1": "b" * 64}, ["localhost/s:1"])):
            self.assertEqual(filters.unloaded(["localhost/s:1"], found, archived), want)


class ConfigPaths(unittest.TestCase):
    def test_files_and_directories_of_a_configuration(self):
        config = {"tls": {"ca_cert": "/etc/ssl/ca.crt", "server_key": "/etc/ssl/s.key"}, "auth": {"api": {"file": "/var/lib/skydive/users", "type": "basic"}},
                  "etcd": {"data_dir": "/srv/etcd"}, "logging": {"file": {"path": "/var/log/skydive/a.log"}}, "storage": {"disk": {"path": "/srv/archive"}},
                  "agent": {"metadata_config": {"files": [{"path": "/etc/rack", "name": "Rack"}]}, "topology": {"netns": {"run_path": "/run/netns"}}},
                  "analyzer": {"listen": "127.0.0.1:8082"}}
        self.assertEqual(filters.config_paths(config), {"files": ["/etc/rack", "/etc/ssl/ca.crt", "/etc/ssl/s.key", "/var/lib/skydive/users"],
                                                        "directories": ["/srv/archive", "/srv/etcd", "/var/log/skydive"]})
        self.assertEqual(filters.config_paths({"auth": {"api": {"users": {"ann": "/not/a/file"}}}}), {"files": [], "directories": []})


if __name__ == "__main__":
    unittest.main()
