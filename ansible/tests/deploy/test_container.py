"""Container mode on Docker, Podman and Podman with Quadlet, in one deployment: the analyzer and an agent in Docker, agents in the two others."""

import http.server
import json
import pathlib
import shutil
import tempfile
import threading
import unittest
import urllib.error
import urllib.request

import lab
from versions import NEW, OLD

# DAC_READ_SEARCH NET_ADMIN NET_RAW SYS_PTRACE SYS_ADMIN; BPF and PERFMON where host and engine give them.
NEEDED, ALLOWED = 0x283004, 0xc000283004
lab.KINDS["bookworm-registry"] = ("bookworm", [*lab.PODMAN, "docker-registry"])
lab.KINDS["bookworm-runc"] = ("bookworm", ["runc"])


def archive(path, version):
    """The image of this checkout under the name of a version."""
    lab.run(["make", "-s", "build"], cwd=lab.ROOT)
    lab.run(["go", "run", "./containers/image", "-binary", "build/skydive", "-version", version, "-created", "0", "-o", path, "containers/Containerfile"],
            cwd=lab.ROOT)
    return "file://%s" % path


class Engines(lab.Case):
    """A host for each engine."""

    HOSTS = {"docker": "bookworm-docker", "podman": "bookworm-podman", "quadlet": "trixie-podman"}
    EVERYTHING = {("docker", "skydive-analyzer"), ("docker", "skydive-agent"), ("podman", "skydive-agent"), ("quadlet", "skydive-agent")}

    @classmethod
    def setUpClass(cls):
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="skydive-container-"))
        cls.addClassCleanup(shutil.rmtree, cls.work)
        for version in (OLD, NEW):
            archive(cls.archive(version), version)
        super().setUpClass()
        cls.engines = {cls.docker: "docker", cls.podman: "podman", cls.quadlet: "podman"}
        cls.prepare()
        cls.inventory = cls.lab.inventory([cls.docker], cls.engines, {
            "skydive_deployment_mode": "container", "skydive_auth_type": "basic", "skydive_load_docker_image": "file://%s" % cls.archive(OLD)})
        cls.before = {host: host.snapshot() for host in cls.engines}

    @classmethod
    def prepare(cls):
        cls.docker.run("systemctl restart docker; install -d -m 0711 /var/lib/containerd/io.containerd.runtime.v2.task/moby")  # made with a first container

    @classmethod
    def archive(cls, version):
        return cls.work / (version + ".tar")

    def play(self, variables=None, playbook=lab.PLAYBOOK, **options):
        return self.lab.play(playbook, self.inventory, variables, **options)

    def cli(self, host, *words, **options):
        return host.output(self.engines[host], *words, env={"PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}, **options)

    def inspect(self, host, service, field):
        return self.cli(host, "container", "inspect", "-f", "{{%s}}" % field, "skydive-%s-%s" % (service, host.name))

    def status(self, host, service):
        """What the kernel says of the process in a container."""
        lines = host.output("cat", "/proc/%s/status" % self.inspect(host, service, ".State.Pid"))
        return {name: value.split() for name, _, value in (line.partition(":") for line in lines.splitlines())}

    def started(self):
        return {host.name: host.started("skydive-agent", *["skydive-analyzer"] * (host is self.docker)) for host in self.engines}

    def restarted(self, before):
        """The services that were started anew since."""
        return {(name, service) for name, services in self.started().items() for service, when in services.items() if before[name][service] != when}

    def names(self):
        """Of the network namespaces in the graph, with their host."""
        password = self.docker.output("sed -n 's/^skydive_password: //p' /etc/skydive/credentials.yml")
        nodes = self.docker.http("http://%s:8082/api/topology" % self.docker.address, "skydive", password,
                                 {"GremlinQuery": "G.V().Has('Type', 'netns')"})
        return {(node["Host"], node["Metadata"]["Name"], node["Metadata"].get("Path")) for node in nodes or []}


class Container(Engines):
    def test_01_what_cannot_work_is_refused(self):
        self.assertIn("skydive_container_cli: docker is not installed here", self.play({"skydive_container_cli": "docker"}, limit="podman", fails=True).output)
        self.docker.run("systemctl stop docker.socket docker")
        self.assertIn("docker is installed here but does not answer", self.play(limit="docker", fails=True).output)
        self.docker.run("systemctl start docker.socket docker")
        self.assertUntouched(self.before)

    def test_02_check_mode_tells_what_will_be(self):
        play = self.play(check=True, diff=True)
        self.assertGreater(play.changed, 0)
        self.assertIn("+ContainerName=skydive-agent-quadlet", play.output)
        self.assertUntouched(self.before)

    def test_03_first_run_and_second(self):
        play = self.play()
        for host, engine in self.engines.items():
            self.assertEqual(self.inspect(host, "agent", ".Config.Image" if engine == "docker" else ".ImageName"), "localhost/skydive/skydive:" + OLD)
            self.assertFalse(host.exists("/var/cache/skydive-image.tar"))
        self.assertTrue(self.quadlet.exists("/etc/containers/systemd/skydive-agent.container"))
        self.assertIn("run --name=skydive-agent-podman", self.podman.output("systemctl cat skydive-agent"))
        started = self.started()
        self.assertUnchanged(self.play())
        self.assertUnchanged(self.play(check=True, diff=True))
        self.assertEqual(self.restarted(started), set())
        password = self.docker.output("sed -n 's/^skydive_password: //p' /etc/skydive/credentials.yml")
        self.assertNotIn(password, play.output + self.docker.output("ps -eo args") + self.docker.journal())

    def test_04_the_containers_are_confined(self):
        analyzer = self.status(self.docker, "analyzer")
        self.assertEqual(analyzer["Uid"][0], self.docker.output("id -u skydive"))
        self.assertEqual((int(analyzer["CapBnd"][0], 16), analyzer["NoNewPrivs"]), (0, ["1"]))
        for host in self.engines:
            agent = self.status(host, "agent")
            capabilities = int(agent["CapBnd"][0], 16)
            self.assertEqual((capabilities & NEEDED, capabilities & ~ALLOWED, agent["NoNewPrivs"], agent["Seccomp"]), (NEEDED, 0, ["1"], ["2"]))
            self.assertEqual(self.inspect(host, "agent", ".HostConfig.ReadonlyRootfs"), "true")
            lab.wait(lambda: self.inspect(host, "agent", ".State.Health.Status") == "healthy", 60, "health of the agent on " + host.name)

    def test_05_namespaces_of_the_host_are_seen_whenever_they_are_made(self):
        for host in self.engines:
            host.run("ip netns add later")
        wanted = {(host.name, "later", "/var/run/netns/later") for host in self.engines}
        lab.wait(lambda: self.names() >= wanted, 20, lambda: "namespaces in the graph: %s" % self.names())
        for host in self.engines:
            host.run("ip netns delete later")
        lab.wait(lambda: not any(name == "later" for _, name, _ in self.names()), 20, "their end")

    def test_06_what_is_killed_comes_back(self):
        before = self.started()
        for host in self.engines:
            host.run("kill", "-9", self.inspect(host, "agent", ".State.Pid"))
        lab.wait(lambda: self.restarted(before) == self.EVERYTHING - {("docker", "skydive-analyzer")}, 30, lambda: "restarts: %s" % self.restarted(before))
        self.docker.run("systemctl restart docker")
        for host in self.engines:
            lab.wait(lambda: host.output("systemctl is-active skydive-agent", check=False) == "active", 30, "agent of " + host.name)
        self.play(playbook=lab.VERIFY)

    def test_07_environment_and_options_of_the_services(self):
        for host in self.engines:
            host.write("/etc/default/skydive-agent", 'SKYDIVE_AGENT_OPTIONS="--listen 127.0.0.1:8099"\nSKYDIVE_LOGGING_LEVEL=DEBUG\n')
            host.run("systemctl restart skydive-agent")
            self.assertTrue(host.listens(8099), host.name)
            self.assertEqual(host.stat("/run/skydive-agent/environment"), "600 root:root")
            host.run("rm /etc/default/skydive-agent; systemctl restart skydive-agent")
            self.assertFalse(host.listens(8099), host.name)

    def test_08_reset_leaves_nothing(self):
        self.play({"skydive_reset_data": True}, playbook=lab.RESET)
        self.assertUntouched(self.before)
        self.assertUnchanged(self.play({"skydive_reset_data": True}, playbook=lab.RESET))


class Images(Engines):
    """Mistakes, upgrades and a registry."""

    HOSTS = {**Engines.HOSTS, "registry": "bookworm-registry"}
    SHORT = False

    @classmethod
    def prepare(cls):
        # A registry without TLS has to be known to the engines.
        address = cls.registry.address + ":5000"
        daemon = json.loads(cls.docker.output("cat /etc/docker/daemon.json"))
        cls.docker.write("/etc/docker/daemon.json", json.dumps({**daemon, "insecure-registries": [address]}))
        super().prepare()
        for host in (cls.podman, cls.quadlet, cls.registry):
            host.write("/etc/containers/registries.conf.d/test.conf", '[[registry]]\nlocation = "%s"\ninsecure = true\n' % address)

    def test_1_a_mistake_stops_nothing(self):
        self.play()
        before = self.started()
        for variables, sentence in (
                ({"skydive_extra_config": {"agent.topolgy.probes": []}}, "(?i)topolgy"),
                ({"skydive_extra_config": {"auth.other": {"type": "basic", "file": "/srv/users"}}}, "/srv/users"),
                ({"skydive_load_docker_image": "file:///etc/hostname"}, "skydive_load_docker_image: /etc/hostname is no archive"),
                ({"skydive_load_docker_image": "", "skydive_docker_registry": self.registry.address + ":1"},
                 "skydive_docker_registry.*: docker cannot pull .*:1/skydive/skydive:latest:.*refused")):
            with self.subTest(sentence):
                self.assertRegex(self.play(variables, fails=True).output, sentence)
                self.assertEqual(self.restarted(before), set())
        self.assertFalse(self.docker.succeeds("grep -rq topolgy /etc/skydive"))
        self.assertUnchanged(self.play())

    def test_2_a_new_image_is_taken_and_the_old_one_kept(self):
        before = self.started()
        self.play({"skydive_load_docker_image": "file://%s" % self.archive(NEW)})
        self.assertEqual(self.restarted(before), self.EVERYTHING)
        for host in self.engines:
            images = self.cli(host, "images", "--format", "{{.Repository}}:{{.Tag}}").split()
            self.assertEqual({"localhost/skydive/skydive:" + version for version in (OLD, NEW)}, {name for name in images if "skydive" in name})

    def test_3_one_variable_restarts_what_it_is_about(self):
        before = self.started()
        variables = {"skydive_load_docker_image": "file://%s" % self.archive(NEW), "skydive_agent_docker_extra_env": "-e SKYDIVE_LOGGING_LEVEL=DEBUG"}
        self.assertEqual(self.play(variables).changed, 6)  # a definition and a restart on each host
        self.assertEqual(self.restarted(before), self.EVERYTHING - {("docker", "skydive-analyzer")})

    def push(self, version):
        name = self.registry.address + ":5000/team/skydive:latest"
        self.registry.copy(self.archive(version), "/root/image.tar")
        self.registry.run("podman load -q -i /root/image.tar && podman tag localhost/skydive/skydive:%s %s && podman push -q %s" % (version, name, name))
        return name

    def test_4_a_registry(self):
        self.registry.write("/etc/docker/registry/config.yml", "version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/docker-registry}}\n"
                            "http: {addr: ':5000'}\n")  # the distribution's asks for a password
        self.registry.run("systemctl restart docker-registry")
        lab.wait(lambda: self.registry.listens(5000), 30, "the registry")
        name = self.push(OLD)
        # As TripleO writes it: the tag stands in the name, and beside it.
        variables = {"skydive_load_docker_image": "", "skydive_docker_registry": self.registry.address + ":5000", "skydive_docker_image_tag": "latest",
                     "skydive_analyzer_docker_image": "team/skydive:latest", "skydive_agent_docker_image": "team/skydive:latest",
                     "skydive_analyzer_docker_command": "/usr/bin/skydive analyzer --conf /etc/skydive.yml",
                     "skydive_agent_docker_command": "/usr/bin/skydive agent --conf /etc/skydive.yml"}
        self.play(variables)
        self.assertIn(name, self.quadlet.output("cat /etc/containers/systemd/skydive-agent.container"))
        self.assertUnchanged(self.play(variables))
        self.push(NEW)
        before = self.started()
        self.play(variables)
        self.assertEqual(self.restarted(before), self.EVERYTHING)
        self.assertUnchanged(self.play(variables))
        self.play({**variables, "skydive_reset_data": True}, playbook=lab.RESET)
        self.assertUntouched(self.before)
        self.assertUnchanged(self.play({**variables, "skydive_reset_data": True}, playbook=lab.RESET))


class Proxy(http.server.BaseHTTPRequestHandler):
    """Lets a host reach its distribution through this machine."""

    def do_GET(self):
        try:
            with urllib.request.urlopen(self.path, timeout=60) as answer:
                self.send_response(200)
                self.send_header("Content-Length", answer.headers["Content-Length"])
                self.end_headers()
                shutil.copyfileobj(answer, self.wfile)
        except urllib.error.HTTPError as error:
            self.send_error(error.code)

    def log_message(self, *_):
        pass


class EngineInstall(lab.Case):
    HOSTS = {"h1": "bookworm-runc"}
    SHORT = False

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="skydive-container-"))
        cls.addClassCleanup(shutil.rmtree, cls.work)
        server = http.server.ThreadingHTTPServer((str(cls.lab.network[1]), 0), Proxy)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cls.addClassCleanup(server.server_close)
        cls.addClassCleanup(server.shutdown)
        cls.h1.write("/etc/apt/apt.conf.d/proxy", 'Acquire::http::Proxy "http://%s:%d";\nAPT::Install-Recommends "false";\n' % server.server_address)
        cls.inventory = cls.lab.inventory([cls.h1], [cls.h1], {
            "skydive_deployment_mode": "container", "skydive_load_docker_image": archive(cls.work / "image.tar", OLD)})

    def test_podman_is_installed_only_when_asked_for(self):
        before = {self.h1: self.h1.snapshot()}
        refused = self.lab.play(lab.PLAYBOOK, self.inventory, fails=True)
        self.assertIn("skydive_container_cli: docker is not installed here; install it, or set skydive_container_engine_install", refused.output)
        self.assertUntouched(before)
        self.lab.play(lab.PLAYBOOK, self.inventory, {"skydive_container_engine_install": True})
        self.assertIn("skydive-agent-h1", self.h1.output("podman ps --format '{{.Names}}'"))
        self.assertUnchanged(self.lab.play(lab.PLAYBOOK, self.inventory, {"skydive_container_engine_install": True}))


if __name__ == "__main__":
    unittest.main()
