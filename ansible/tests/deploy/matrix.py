"""The matrix: modes × topologies × authentication × platforms, and each inventory of inventory/, all through one course.

A row deploys, verifies, runs again and in check mode, changes one variable, upgrades to another build, and resets. What it found is a
line of JSON in $SKYDIVE_DEPLOY_RESULTS; run.py makes a table of these.
"""

import dataclasses
import functools
import json
import os
import re
import sys
import time

import lab

sys.path.insert(0, str(lab.ROOT / "ansible" / "tests" / "openstack"))

import testbed  # noqa: E402

NEXT = "v99.0.0"

# Variables of a mode, and those that upgrade it to the other build; {root} is the checkout.
MODES = {
    "binary": ({}, {"skydive_binary_remote_location": "file://{root}/build/next/skydive"}),
    "package": ({"skydive_deployment_mode": "package"}, {"skydive_package_location": "file://{root}/build/next/packages"}),
    "podman": ({"skydive_deployment_mode": "container", "skydive_container_cli": "podman"},
               {"skydive_load_docker_image": "file://{root}/build/next/skydive.tar"}),
    "docker": ({"skydive_deployment_mode": "container", "skydive_container_cli": "docker"},
               {"skydive_load_docker_image": "file://{root}/build/next/skydive.tar"}),
}
# Which of h1, h2, h3 are analyzers and which agents.
TOPOLOGIES = {"all-in-one": (1, 1), "1 analyzer, 2 agents": (1, 2), "2 analyzers, 3 agents": (2, 3)}
PLATFORMS = {"bookworm": "Debian 12", "trixie": "Debian 13"}


@dataclasses.dataclass
class Row:
    mode: str
    topology: str
    auth: str  # "none", "basic", "basic, TLS" or "keystone"
    kind: str  # of the hosts
    sample: str = ""  # inventory/NAME; empty: an inventory made here
    absent: tuple = ()  # probes that it asks for and this version, or the host, does not have
    user: tuple = ("skydive", "")  # without a password: the generated one
    short: bool = False  # also in the short slice

    @property
    def name(self):
        return "%s, %s%s" % (self.sample, self.mode, "" if "trixie" not in self.kind else ", Debian 13") if self.sample else "%s, %s, %s%s" % (
            self.mode, self.topology, self.auth, ", Debian 13" if "trixie" in self.kind else "")

    @property
    def tls(self):
        return self.auth.endswith("TLS")

    @property
    def local(self):
        """The inventory says localhost: Ansible runs on the host, from the checkout that is mounted there."""
        return self.sample.startswith("hosts.localhost")


def rows():
    made = []
    kinds = {"binary": "bookworm", "package": "bookworm", "podman": "bookworm-podman", "docker": "bookworm-docker"}
    short = {("package", "2 analyzers, 3 agents", "basic, TLS")}
    for mode, kind in kinds.items():
        for topology in TOPOLOGIES:
            for auth in ("none", "basic", "basic, TLS"):
                made.append(Row(mode, topology, auth, kind, short=(mode, topology, auth) in short))
    made += [Row("binary", "all-in-one", "basic", "trixie"), Row("package", "all-in-one", "basic", "trixie"),
             Row("podman", "1 analyzer, 2 agents", "basic", "trixie-podman"), Row("docker", "all-in-one", "basic", "trixie-docker")]
    made += [
        Row("binary", "all-in-one", "none", "bookworm-controller", "hosts.localhost", short=True),
        Row("binary", "all-in-one", "basic", "bookworm-controller", "hosts.localhost.auth", user=("admin", "secret"), short=True),
        Row("binary", "all-in-one", "none", "bookworm-controller", "hosts.localhost.extra", ("socketinfo", "docker"), short=True),
        Row("podman", "all-in-one", "none", "bookworm-controller", "hosts.localhost.container", ("docker",), short=True),
        Row("podman", "all-in-one", "keystone", "bookworm-controller", "hosts.localhost.openstack", ("docker", "ovsdb"), short=True),
        Row("binary", "1 analyzer, 2 agents", "basic", "bookworm", "hosts.multiple", short=True),
        Row("podman", "1 analyzer, 2 agents", "basic", "bookworm-podman", "hosts.multiple.container", ("docker",)),
        Row("docker", "1 analyzer, 2 agents", "basic", "bookworm-docker", "hosts.multiple.container", ("docker",), short=True),
    ]
    return made


# What make has to build for a mode.
TARGETS = {"binary": "build", "package": "packages", "podman": "images", "docker": "images"}


@functools.lru_cache(maxsize=None)
def built(target):
    """Builds this checkout as it is, and the same with another version to upgrade to. Returns the version."""
    with lab.locked("builds"):
        make = ["make", "-s", "-C", lab.ROOT, "build", target]
        lab.run(make, timeout=590)
        lab.run([*make, "VERSION=" + NEXT, "BINARY=build/next/skydive", "PACKAGES_DIR=build/next/packages", "IMAGE=build/next/skydive.tar"], timeout=590)
    return re.search(r"\S+$", lab.run([lab.ROOT / "build" / "skydive", "version"]).stdout.strip()).group(0)


class Course:
    """One row on its hosts."""

    def __init__(self, test, row, hosts):
        self.test, self.row, self.lab = test, row, test.lab
        self.version = built(TARGETS[row.mode])
        analyzers, agents = TOPOLOGIES[row.topology]
        self.analyzers, self.agents, self.hosts = hosts[:analyzers], hosts[:agents], hosts[:max(analyzers, agents)]
        self.root = "/skydive" if row.local else str(lab.ROOT)
        self.result = {"row": row.name, "mode": row.mode, "topology": row.topology, "auth": row.auth, "inventory": row.sample,
                       "os": PLATFORMS[row.kind.split("-")[0]], "outcome": "did not end"}
        if not row.sample:
            self.inventory = self.lab.inventory(self.analyzers, self.agents, {
                **self.of_mode(0), **self.certificates(), "skydive_auth_type": "" if row.auth == "none" else "basic",
                "skydive_etcd_insecure": analyzers > 1 and not row.tls})
        elif row.local:
            self.inventory = "inventory/" + row.sample
        else:
            self.inventory = self.lab.sample(row.sample, dict(zip(("10.0.0.4", "10.0.0.9"), hosts)))

    def certificates(self):
        """Variables that name what skydive tls init makes for the analyzers and, another pair, for whoever connects to them."""
        if not self.row.tls:
            return {}
        pki = self.lab.work / ("pki-" + self.row.mode + self.row.topology.replace(" ", ""))
        lab.run([lab.ROOT / "build" / "skydive", "tls", "init", "--dir", pki, "analyzer=" + ",".join(host.address for host in self.analyzers), "agent"])
        files = {"ca_cert": "ca.crt", "server_cert": "analyzer/server.crt", "server_key": "analyzer/server.key",
                 "client_cert": "agent/client.crt", "client_key": "agent/client.key"}
        return {"skydive_tls_" + name: str(pki / file) for name, file in files.items()}

    def of_mode(self, which):
        return {name: value.format(root=self.root) for name, value in MODES[self.row.mode][which].items()}

    def play(self, playbook=lab.PLAYBOOK, variables=None, **options):
        play = self.hosts[0].play if self.row.local else self.lab.play
        if self.row.auth == "keystone":
            # Where Keystone is; its administrator is known from the environment, as after "source openrc".
            variables = {"skydive_os_auth_url": self.test.keystone + "/v3", **(variables or {})}
            options["environ"] = {"OS_AUTH_URL": self.test.keystone + "/v3", "OS_USERNAME": "admin", "OS_PASSWORD": testbed.PASSWORD}
        result = play(playbook, self.inventory, variables, **options)
        self.result["ansible"] = result.version
        return result

    def run(self):
        steps = [self.deploy, self.verify, self.again, self.check, self.change, self.upgrade, self.reset]
        try:
            for step in steps:
                self.result["outcome"] = "failed: " + step.__name__
                begin = time.monotonic()
                step()
                lab.say("  %s %.0f s" % (step.__name__, time.monotonic() - begin))
            self.result["outcome"] = "passed"
        except Exception:
            self.lab.report()
            self.test.reported = True
            self.play(lab.RESET, {"skydive_reset_data": True})  # the next row wants clean hosts
            raise
        finally:
            self.result["engine"] = self.engine()
            if path := os.environ.get("SKYDIVE_DEPLOY_RESULTS"):
                with open(path, "a") as file:
                    file.write(json.dumps(self.result) + "\n")

    def engine(self):
        if self.row.mode not in ("podman", "docker"):
            return ""
        return re.sub(r"(?i).*version (\d[\d.]*).*", self.row.mode + r" \1", self.hosts[0].output(self.row.mode, "--version"))

    def deploy(self):
        self.before = {host: host.snapshot() for host in self.hosts}
        play = self.play()
        self.result["first"] = round(play.seconds, 1)
        self.test.assertGreater(play.changed, 0)

    def address(self, host, service):
        """Where a service listens, by the configuration that was written."""
        configuration = host.output("cat", "/etc/skydive/skydive.yml")
        return re.search(r"(?m)^%s:\n(?:  .*\n)*?  listen: (\S+)" % service, configuration).group(1).replace("0.0.0.0:", host.address + ":")

    def verify(self, version=None):
        """Every host's agent reports what its kernel has, live, and every host can ask every analyzer."""
        names = {host.name for host in self.agents}
        user, password = self.row.user if self.row.auth != "none" else ("", "")
        if user and not password:
            password = re.search(r"(?m)^skydive_password: (.*)$", self.analyzers[0].output("cat", "/etc/skydive/credentials.yml")).group(1)
        scheme = "https://" if self.row.tls else "http://"
        analyzers = {host: scheme + self.address(host, "analyzer") for host in self.analyzers}
        # An agent alone on its host has no certificate of a server, and listens on loopback.
        agents = {host: (scheme if host in self.analyzers else "http://") + self.address(host, "agent") for host in self.agents}
        for host in self.agents:
            host.run("ip", "link", "add", "mx0", "type", "bridge")
        try:
            for host in self.hosts:
                for url in analyzers.values():
                    def hosts(gremlin):
                        return set(host.http(url + "/api/topology", user, password, {"GremlinQuery": gremlin}) or [])
                    for gremlin in ("G.V().Has('Type', 'host').Values('Name')", "G.V().Has('Name', 'mx0').In().Has('Type', 'host').Values('Name')"):
                        lab.wait(lambda: hosts(gremlin) == names, 60, lambda: "%s for %s asked by %s at %s, but %s" % (
                            names, gremlin, host.name, url, hosts(gremlin)))
        finally:
            for host in self.agents:
                host.run("ip", "link", "delete", "mx0")
        for host, url in analyzers.items():
            connected = host.http(url + "/api/status", user, password)["Agents"]
            self.test.assertEqual({name for name, agent in connected.items() if agent["IsConnected"]}, names)
            self.test.assertEqual(host.http(url + "/api", user, password)["Version"], version or self.version)
            if self.row.tls:
                with self.test.assertRaisesRegex(lab.Failed, "400"):
                    host.http(url.replace("https:", "http:") + "/api")
        for host, url in agents.items():
            self.test.assertEqual(host.http(url + "/api")["Version"], version or self.version)
            status = host.http(url + "/api/status")
            self.test.assertEqual({link["State"] for link in status["Analyzers"].values()}, {"connected"})
            states = {name: probe["Status"] for name, probe in status["TopologyProbes"].items()}
            self.test.assertEqual([states.get(probe) for probe in self.row.absent], ["absent"] * len(self.row.absent), states)
            if self.row.auth == "keystone":
                self.test.assertEqual(states.get("neutron"), "running", status["TopologyProbes"])

    def again(self):
        started = self.started()
        play = self.play()
        self.result["second"] = round(play.seconds, 1)
        self.test.assertUnchanged(play)
        self.test.assertEqual(self.started(), started)

    def check(self):
        self.test.assertUnchanged(self.play(check=True, diff=True))

    def started(self):
        return {"%s on %s" % (service, host.name): when for host in self.hosts for service, when in host.started(*lab.SERVICES).items()}

    def change(self):
        """Another port for the agent of the last host: its configuration changes, and nothing but what reads that restarts."""
        last = self.hosts[-1]
        before = self.started()
        variable = {"skydive_agent_port": "{{ 8091 if inventory_hostname == '%s' else 8081 }}" % self.inventory_name(last)}
        self.play(variables=variable)
        self.test.assertTrue(last.listens(8091))
        now = self.started()
        restarted = {name for name in now if now[name] != before[name]}
        has = [service for service, hosts in (("skydive-analyzer", self.analyzers), ("skydive-agent", self.agents)) if last in hosts]
        self.test.assertEqual(restarted, {"%s on %s" % (service, last.name) for service in has})
        self.test.assertUnchanged(self.play(variables=variable, check=True))

    def inventory_name(self, host):
        return "localhost" if self.row.local else host.address if self.row.sample else host.name

    def upgrade(self):
        self.play(variables=self.of_mode(1))
        self.verify(NEXT)

    def reset(self):
        self.play(lab.RESET, {"skydive_reset_data": True})
        self.test.assertUntouched(self.before)

