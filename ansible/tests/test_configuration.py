"""What the variables do to the configuration: rendered by real Ansible, checked by the product."""

import os
import pathlib
import subprocess
import tempfile
import unittest
import unittest.mock

import rendering
import variables
import yaml

ROOT = variables.ROLE.parent.parent.parent
BINARY = pathlib.Path(os.environ.get("SKYDIVE_BINARY") or ROOT / "build" / "skydive")

HOSTS = {
    "h1": rendering.facts_of("one", "10.0.0.4"),
    "h2": rendering.facts_of("two", "10.0.0.9", "ens3", eth1={"ipv4": {"address": "192.168.7.9"}}),
}
# Passwords that would otherwise be generated.
GIVEN = {"skydive_password": "p", "skydive_cluster_password": "c", "skydive_os_service_password": "s"}
KEYSTONE = {"skydive_auth_type": "keystone", "skydive_os_auth_url": "http://k:5000"}
NEUTRON = {"skydive_topology_probes": ["neutron"]}
ABSENT = None

# One analyzer h1, two agents h1 and h2: variables, host, {key of the configuration: value, or ABSENT}.
CASES = [
    ({}, "h1", {"host_id": "one", "analyzers": ["10.0.0.4:8082"], "analyzer.listen": "10.0.0.4:8082", "agent.listen": "127.0.0.1:8081",
                "etcd.embedded": True, "etcd.listen": "127.0.0.1:12379", "flow": ABSENT, "tls": ABSENT, "auth.api": ABSENT,
                "analyzer.auth.api": ABSENT, "agent.topology": ABSENT}),
    ({}, "h2", {"host_id": "two", "analyzers": ["10.0.0.4:8082"], "analyzer": ABSENT, "etcd": ABSENT, "auth": ABSENT}),
    # Addresses and ports
    ({"skydive_listen_ip": "0.0.0.0"}, "h1", {"analyzer.listen": "0.0.0.0:8082", "agent.listen": "0.0.0.0:8081", "analyzers": ["10.0.0.4:8082"]}),
    ({"skydive_listen_ip": "0.0.0.0", "skydive_analyzer_ip": "10.0.0.5"}, "h1", {"analyzer.listen": "10.0.0.5:8082", "analyzers": ["10.0.0.5:8082"]}),
    ({"skydive_analyzer_ip": "fd00::4"}, "h1", {"analyzer.listen": "[fd00::4]:8082", "analyzers": ["[fd00::4]:8082"]}),
    ({"skydive_agent_ip": "10.0.0.9", "skydive_agent_port": 9081}, "h2", {"agent.listen": "10.0.0.9:9081"}),
    ({"skydive_nic": "eth0"}, "h1", {"analyzer.listen": "10.0.0.4:8082", "agent.listen": "10.0.0.4:8081"}),
    ({"skydive_nic": "ansible_eth1"}, "h2", {"agent.listen": "192.168.7.9:8081"}),
    ({"skydive_analyzer_port": "8090"}, "h2", {"analyzers": ["10.0.0.4:8090"]}),
    # Topology, flows, anything
    ({"skydive_topology_probes": ["docker", "lldp"]}, "h2", {"agent.topology.probes": ["docker", "lldp"]}),
    ({"skydive_topology_probes": "docker, lldp"}, "h2", {"agent.topology.probes": ["docker", "lldp"]}),
    ({"skydive_flow_protocol": "websocket"}, "h2", {"flow.protocol": "websocket"}),
    ({"skydive_extra_config": {"agent.topology.probes": ["ovsdb"], "logging.level": "DEBUG", "agent.listen": None},
      "skydive_topology_probes": ["docker"]}, "h2", {"agent.topology.probes": ["ovsdb"], "logging.level": "DEBUG", "agent.listen": ABSENT}),
    ({"skydive_extra_config": "{'etcd.listen': '127.0.0.1:2379'}"}, "h1", {"etcd.listen": "127.0.0.1:2379"}),
    # Fabric
    ({}, "h1", {"analyzer.topology.fabric": [
        "TOR1[Name=tor1] -> TOR1_PORT1[Name=port1, MTU=1500]", "TOR1_PORT1 -> *[Type=host,Name=one]/eth0",
        "TOR1[Name=tor1] -> TOR1_PORT2[Name=port2, MTU=1500]", "TOR1_PORT2 -> *[Type=host,Name=two]/ens3"]}),
    ({"skydive_fabric_default_interface": "bond0", "skydive_fabric_default_tor_name": "leaf", "skydive_fabric_default_tor_mtu": "9000"}, "h1",
     {"analyzer.topology.fabric": [
         "LEAF[Name=leaf] -> LEAF_PORT1[Name=port1, MTU=9000]", "LEAF_PORT1 -> *[Type=host,Name=one]/bond0",
         "LEAF[Name=leaf] -> LEAF_PORT2[Name=port2, MTU=9000]", "LEAF_PORT2 -> *[Type=host,Name=two]/bond0"]}),
    ({"skydive_auto_fabric": False}, "h1", {"analyzer.topology": ABSENT}),
    ({"skydive_fabric": ["A[Name=a] -> B[Name=b, MTU=1500]"]}, "h1", {"analyzer.topology.fabric": ["A[Name=a] -> B[Name=b, MTU=1500]"]}),
    ({"skydive_fabric": "A[Name=a] -> B[Name=b, MTU=1500]\nB -> C"}, "h1", {"analyzer.topology.fabric": ["A[Name=a] -> B[Name=b, MTU=1500]", "B -> C"]}),
    ({"skydive_fabric": "['A[Name=a, MTU=9] -> B', 'B -> C']"}, "h1", {"analyzer.topology.fabric": ["A[Name=a, MTU=9] -> B", "B -> C"]}),
    # etcd
    ({"skydive_etcd_port": "22379"}, "h1", {"etcd.listen": "127.0.0.1:22379"}),
    ({"skydive_etcd_embedded": "no", "skydive_etcd_servers": "http://e1:2379,http://e2:2379"}, "h1",
     {"etcd.embedded": False, "etcd.servers": ["http://e1:2379", "http://e2:2379"], "etcd.listen": ABSENT, "etcd.peers": ABSENT}),
    # Who may use it
    ({"skydive_auth_type": "basic", "skydive_username": "Ann.b"}, "h1",
     {"analyzer.auth.api.backend": "api", "auth.api.type": "basic", "auth.api.users": {"Ann.b": "p"}, "auth.api.file": ABSENT}),
    ({"skydive_auth_type": "basic", "skydive_password": "123"}, "h1", {"auth.api.users": {"skydive": "123"}}),
    ({"skydive_auth_type": "basic", "skydive_basic_auth_file": "/etc/skydive/users"}, "h1", {"auth.api.file": "/etc/skydive/users", "auth.api.users": ABSENT}),
    ({"skydive_cluster_username": "agents"}, "h1",
     {"analyzer.auth.cluster": {"backend": "cluster", "username": "agents", "password": "c"}, "auth.cluster": {"type": "basic", "users": {"agents": "c"}},
      "agent.auth.cluster": {"username": "agents", "password": "c"}}),
    ({"skydive_cluster_username": ""}, "h1", {"analyzer.auth": ABSENT, "auth": ABSENT, "agent.auth": ABSENT}),
    # Keystone and Neutron
    (KEYSTONE, "h1", {"analyzer.auth.api.backend": "api", "auth.api": {"type": "keystone", "auth_url": "http://k:5000", "tenant_name": "skydive",
                                                                      "domain_name": "Default"}, "agent.topology": ABSENT}),
    (KEYSTONE, "h2", {"auth": ABSENT, "agent.topology": ABSENT}),
    ({"skydive_auth_type": "keystone", "os_auth_url": "http://os:5000"}, "h1", {"auth.api.auth_url": "http://os:5000"}),
    ({**KEYSTONE, "skydive_auth_os_tenant_name": "t", "skydive_auth_os_domain_name": "d", "skydive_os_service_cacert": "/ca"}, "h1",
     {"auth.api.tenant_name": "t", "auth.api.domain_name": "d", "auth.api.ca_cert": "/ca"}),
    ({**NEUTRON, "skydive_os_auth_url": "http://k:5000"}, "h2", {"agent.topology.neutron": {
        "auth_url": "http://k:5000", "username": "skydive.service", "password": "s", "tenant_name": "service", "domain_name": "Default",
        "region_name": "RegionOne", "endpoint_type": "internal", "ssl_insecure": False}}),
    ({"skydive_extra_config": {"agent": {"topology": {"probes": ["neutron"]}}}, "skydive_os_service_username": "n"}, "h2",
     {"agent.topology.neutron.username": "n"}),
    ({"skydive_extra_config": {"agent.topology.probes": ["docker"]}, **NEUTRON}, "h2", {"agent.topology.neutron": ABSENT}),
    ({**NEUTRON, "skydive_os_service_tenant_name": "t", "skydive_os_service_domain_name": "d", "skydive_os_service_region_name": "r",
      "skydive_os_service_endpoint_type": "admin", "skydive_os_service_insecure": "yes", "skydive_os_service_cacert": "/ca"}, "h2",
     {"agent.topology.neutron": {"username": "skydive.service", "password": "s", "tenant_name": "t", "domain_name": "d", "region_name": "r",
                                 "endpoint_type": "admin", "ssl_insecure": True, "ca_cert": "/ca"}}),
]
TLS = {"skydive_tls_ca_cert": "ca.pem", "skydive_tls_server_cert": "s.pem", "skydive_tls_server_key": "s.key",
       "skydive_tls_client_cert": "c.pem", "skydive_tls_client_key": "c.key"}


def at(config, key):
    for part in key.split("."):
        if not isinstance(config, dict) or part not in config:
            return ABSENT
        config = config[part]
    return config


def deployment(given, analyzers=("h1",), agents=("h1", "h2"), **more):
    return rendering.Deployment(HOSTS, analyzers, agents, {**GIVEN, **given}, **more)


def problems(given, host="h1", **more):
    return "\n".join(problem for problem in deployment(given, **more).value(host, "_skydive_problems") if problem)


class Configuration(unittest.TestCase):
    def check(self, config, allowed=0):
        if not BINARY.exists():
            self.assertNotEqual(os.environ.get("SKYDIVE_CI"), "1", "%s is missing" % BINARY)
            self.skipTest("%s is missing: make build" % BINARY)
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
            file.write(yaml.safe_dump(config))
            file.flush()
            done = subprocess.run([BINARY, "config", "check", file.name], text=True, capture_output=True)
        self.assertEqual(done.returncode, allowed, done.stderr)
        return done.stderr

    def test_every_variable_has_its_effect(self):
        for given, host, wanted in CASES:
            with self.subTest(given=given, host=host):
                config = deployment(given).value(host, "skydive_config")
                self.assertEqual({key: at(config, key) for key in wanted}, wanted)
                self.check(config)

    def test_nothing_is_in_the_way(self):
        for given in ({}, KEYSTONE, {"skydive_iptables_rules": True}):
            self.assertEqual(problems(given), "", given)

    def test_several_analyzers_share_an_etcd(self):
        given = {"skydive_etcd_insecure": True, "skydive_etcd_scheme": "http"}
        both = {"analyzers": ("h1", "h2"), "agents": ()}
        self.assertIn("skydive_etcd_insecure", problems({}, **both))
        self.assertEqual(problems(given, **both), "")
        config = deployment(given, **both).value("h2", "skydive_config")
        self.assertEqual(config["etcd"], {"embedded": True, "listen": "10.0.0.9:12379", "name": "two",
                                          "servers": ["http://10.0.0.4:12379", "http://10.0.0.9:12379"],
                                          "peers": {"one": "http://10.0.0.4:12380", "two": "http://10.0.0.9:12380"}})
        self.assertEqual(config["analyzers"], ["10.0.0.4:8082", "10.0.0.9:8082"])
        self.check(config)
        secure = deployment({**given, "skydive_etcd_scheme": "https", "skydive_etcd_port": "2379"}, **both).value("h1", "skydive_config")
        self.assertEqual(secure["etcd"]["servers"], ["https://10.0.0.4:2379", "https://10.0.0.9:2379"])
        self.assertEqual(secure["etcd"]["peers"]["two"], "https://10.0.0.9:2380")
        ports = deployment(given, **both, variables_of_hosts={"h2": {"skydive_analyzer_port": 9082}}).value("h1", "skydive_config")
        self.assertEqual(ports["analyzers"], ["10.0.0.4:8082", "10.0.0.9:9082"])

    def test_tls(self):
        with tempfile.TemporaryDirectory() as work:
            given = {name: os.path.join(work, file) for name, file in TLS.items()}
            for file in given.values():
                pathlib.Path(file).touch()
            whole = deployment(given)
            client = {"ca_cert": "/etc/skydive/tls/ca.crt", "client_cert": "/etc/skydive/tls/client.crt", "client_key": "/etc/skydive/tls/client.key"}
            self.assertEqual(whole.value("h2", "skydive_config")["tls"], client)
            config = whole.value("h1", "skydive_config")
            self.assertEqual(config["tls"], {**client, "server_cert": "/etc/skydive/tls/server.crt", "server_key": "/etc/skydive/tls/server.key"})
            self.assertEqual(whole.value("h1", "_skydive_tls_given"), {name.removeprefix("skydive_tls_"): path for name, path in given.items()})
            self.assertNotIn("server_key", whole.value("h2", "_skydive_tls_given"))
            self.assertEqual(whole.value("h1", "_skydive_url"), "https://10.0.0.4:8082")
            self.check(config)
            self.assertEqual(problems(given), "")
            cluster = deployment(given, analyzers=("h1", "h2"), agents=())
            self.assertEqual(cluster.value("h1", "skydive_config")["etcd"]["peers"], {"one": "https://10.0.0.4:12380", "two": "https://10.0.0.9:12380"})
            self.assertEqual(problems(given, analyzers=("h1", "h2"), agents=()), "")
            # An agent that is reached from outside serves TLS too.
            self.assertIn("server_cert", deployment({**given, "skydive_agent_ip": "10.0.0.9"}).value("h2", "skydive_config")["tls"])
            part = {name: given[name] for name in ("skydive_tls_ca_cert", "skydive_tls_client_cert", "skydive_tls_client_key")}
            self.assertIn("this host needs skydive_tls_server_cert, skydive_tls_server_key too", problems(part))
            self.assertNotIn("this host needs", problems(part, host="h2"))
            os.unlink(given["skydive_tls_client_key"])
            self.assertIn("the controller has no file %s" % given["skydive_tls_client_key"], problems(given))

    def test_where_an_analyzer_is_asked(self):
        for given, url in (({}, "http://10.0.0.4:8082"), ({"skydive_listen_ip": "0.0.0.0"}, "http://127.0.0.1:8082"), ({"skydive_analyzer_ip": "::"}, "http://127.0.0.1:8082"),
                           ({"skydive_extra_config": {"analyzer.listen": "127.0.0.1:9"}}, "http://127.0.0.1:9")):
            self.assertEqual(deployment(given).value("h1", "_skydive_url"), url)

    def test_firewall_follows_the_configuration(self):
        def rules(given, host="h1", **more):
            return deployment(given, **more).value(host, "_skydive_firewall_rules")
        self.assertEqual(rules({}), ["tcp 8082 any API port"])
        self.assertEqual(rules({}, "h2"), [])
        self.assertEqual(rules({"skydive_listen_ip": "127.0.0.1"}), [])
        self.assertEqual(rules({"skydive_flow_protocol": "udp", "skydive_nic": "eth0", "skydive_analyzer_port": 9}),
                         ["tcp 9 any API port", "udp 9 any flow port", "tcp 8081 any agent port"])
        self.assertEqual(rules({"skydive_cluster_username": ""}), ["tcp 8082 any API port", "udp 8082 any flow port"])
        self.assertEqual(rules({"skydive_cluster_username": "", "skydive_extra_config": {"flow.protocol": "websocket", "analyzer.listen": "[::]:7"}}),
                         ["tcp 7 any API port"])
        self.assertEqual(rules({"skydive_analyzer_ip": "10.0.0.4"}, analyzers=("h1", "h2"), agents=(), variables_of_hosts={"h2": {"skydive_analyzer_ip": "FD00:0::9"}}),
                         ["tcp 8082 any API port", "tcp 12379 10.0.0.4 embedded etcd port", "tcp 12380 10.0.0.4 embedded etcd port",
                          "tcp 12379 fd00::9 embedded etcd port", "tcp 12380 fd00::9 embedded etcd port"])

    def test_administrator_of_keystone(self):
        """Variables, then the environment, then what is usual."""
        usual = {"auth_url": "", "username": "", "password": "", "tenant_name": "admin", "user_domain_name": "Default", "project_domain_name": "Default",
                 "interface": "public", "version": "3"}
        given = {"os_auth_url": "u", "os_username": "n", "os_password": "w", "os_tenant_name": "t", "os_user_domain_name": "a", "os_project_domain_name": "b",
                 "os_endpoint_type": "internal", "os_identity_api_version": "3.14"}
        environ = {"OS_AUTH_URL": "U", "OS_USERNAME": "N", "OS_PASSWORD": "W", "OS_TENANT_NAME": "T", "OS_USER_DOMAIN_NAME": "A",
                   "OS_PROJECT_DOMAIN_NAME": "B", "OS_ENDPOINT_TYPE": "adminURL", "OS_IDENTITY_API_VERSION": "3"}
        before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("OS_")}
        self.addCleanup(os.environ.update, before)
        self.assertEqual(deployment({}).value("h1", "_skydive_os"), usual)
        self.assertEqual(deployment({"os_domain_name": "d"}).value("h1", "_skydive_os"), {**usual, "user_domain_name": "d", "project_domain_name": "d"})
        with unittest.mock.patch.dict(os.environ, environ):
            self.assertEqual(deployment({}).value("h1", "_skydive_os"), {
                "auth_url": "U", "username": "N", "password": "W", "tenant_name": "T", "user_domain_name": "A", "project_domain_name": "B",
                "interface": "admin", "version": "3"})
            self.assertEqual(deployment(given).value("h1", "_skydive_os"), {
                "auth_url": "u", "username": "n", "password": "w", "tenant_name": "t", "user_domain_name": "a", "project_domain_name": "b",
                "interface": "internal", "version": "3.14"})
        for wrong, word in (({"os_identity_api_version": "2.0"}, "os_identity_api_version: 2.0; only version 3"), ({"os_identity_api_version": 2}, "only version 3"),
                            ({"os_endpoint_type": "private"}, "os_endpoint_type: private"), ({"os_auth_url": "u"}, "os_auth_url, os_username and os_password"),
                            ({"skydive_os_auth_url": ""}, "needs skydive_os_auth_url")):
            self.assertIn(word, problems({**KEYSTONE, **wrong}))
            self.assertNotIn(word, problems(wrong), "without Keystone nothing of it counts")

    def test_users_of_keystone(self):
        users = deployment({**KEYSTONE, "skydive_username": "ann", "skydive_auth_os_tenant_name": "t", "skydive_auth_os_domain_name": "D", "skydive_auth_os_domain_id": "d",
                            "skydive_os_service_user_role": "watcher", "skydive_auth_os_user_role": "operator"}).value("h1", "_skydive_keystone_users")
        self.assertEqual(users, [
            {"name": "ann", "password": "p", "domain_name": "D", "tenant_name": "t", "tenant_domain_id": "d", "role": "operator"},
            {"name": "skydive.service", "password": "s", "domain_name": "Default", "tenant_name": "service", "role": "watcher"}])
        for variables, role in (({}, "reader"), (NEUTRON, "admin"), ({**NEUTRON, "skydive_os_service_user_role": "lister"}, "lister")):
            self.assertEqual(deployment({**KEYSTONE, **variables}).value("h1", "_skydive_keystone_users")[1]["role"], role)

    def test_services_run_as_said(self):
        one = deployment({"skydive_sys_username": "sky", "skydive_sys_groupname": "net", "skydive_config_file": "/srv/s.yml", "skydive_binary_location": "/opt/skydive"})
        values = one.value("h1", "_skydive_service_values", _skydive_service="agent")
        self.assertEqual({name: values[name] for name in ("user", "group", "config", "binary")},
                         {"user": "sky", "group": "net", "config": "/srv/s.yml", "binary": "/opt/skydive"})
        self.assertEqual(one.value("h1", "_skydive_owners")["/var/lib/skydive"], "sky")

    def test_containers_are_as_said(self):
        one = deployment({"skydive_deployment_mode": "container", "skydive_container_cli": "podman", "skydive_docker_registry": "r:5000", "skydive_docker_image_tag": "1",
                          "skydive_agent_docker_image_tag": "2", "skydive_analyzer_docker_extra_env": "-e A=b", "skydive_agent_docker_extra_env": "-e C=d"},
                         look=("engine podman 5.0", "engine docker 24.0"))
        self.assertEqual(one.value("h1", "_skydive_image"), {"analyzer": "r:5000/skydive/skydive:1", "agent": "r:5000/skydive/skydive:2"})
        for service, extra, other in (("analyzer", "-e A=b", "-e C=d"), ("agent", "-e C=d", "-e A=b")):
            options = one.value("h1", "_skydive_container_options", _skydive_service=service)
            self.assertIn(extra, str(options))
            self.assertNotIn(other, str(options))
        tagged = deployment({"skydive_deployment_mode": "container", "skydive_analyzer_docker_image": "x/y:3", "skydive_analyzer_docker_image_tag": "4"})
        self.assertEqual(tagged.value("h1", "_skydive_image.analyzer"), "docker.io/x/y:3")
        none = {"skydive_deployment_mode": "container", "skydive_container_cli": "podman"}
        self.assertIn("skydive_container_cli: podman is not installed here", problems(none))
        self.assertNotIn("is not installed here", problems({**none, "skydive_container_engine_install": True}))

    def test_what_is_refused_names_the_variable(self):
        for given, word in (({"skydive_nic": "eth9"}, "skydive_nic: eth9 has no address"), ({"skydive_etcd_embedded": False}, "skydive_etcd_servers must name"),
                            ({"skydive_analyser_port": 1}, "did you mean skydive_analyzer_port")):
            self.assertIn(word, problems(given))

    def test_sample_inventories_render(self):
        """Each sample gives a configuration that the product takes."""
        for path in sorted((ROOT / "inventory").iterdir()):
            with self.subTest(inventory=path.name):
                sample = rendering.Deployment.of(path, HOSTS["h1"])
                for host in sample.names:
                    self.check(sample.value(host, "skydive_config"))


if __name__ == "__main__":
    unittest.main()
