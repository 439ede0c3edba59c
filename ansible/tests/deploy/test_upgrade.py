"""upgrade.yml on two analyzers: the cluster goes on answering, and what does not prove itself is taken back, in every mode."""

import concurrent.futures
import pathlib
import re
import shutil
import tempfile
import threading
import unittest
import urllib.request

import lab
from versions import NEW, OLD, SERVICES, make, running

UPGRADE = "ansible/playbooks/upgrade.yml"
# Accepts every configuration and never serves.
BROKEN = "#!/bin/sh\ncase $1 in analyzer | agent) exit 1 ;; esac\n"


def answers(host):
    try:
        with urllib.request.urlopen("http://%s:8082/api" % host.address, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


class Upgrade(lab.Case):
    HOSTS = {"h1": "bookworm", "h2": "bookworm"}

    @classmethod
    def setUpClass(cls):
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="skydive-upgrade-"))
        cls.addClassCleanup(shutil.rmtree, cls.work)
        cls.old, cls.new, cls.broken = make(cls.work, OLD), make(cls.work, NEW), cls.work / "broken"
        cls.broken.mkdir()
        (cls.broken / "skydive-linux-amd64").write_text(BROKEN)
        super().setUpClass()
        cls.hosts = [cls.h1, cls.h2]
        cls.inventory = cls.lab.inventory(cls.hosts, cls.hosts, {"skydive_etcd_insecure": True})
        cls.before = {host: host.snapshot() for host in cls.hosts}

    def binary(self, directory):
        return {"skydive_binary_remote_location": (directory / "skydive-linux-amd64").as_uri()}

    def upgrade(self, variables, fails=False):
        return self.lab.play(UPGRADE, self.inventory, variables, fails=fails)

    def assertRuns(self, version):
        for host in self.hosts:
            self.assertEqual(running(host, *SERVICES), dict.fromkeys(SERVICES, version), host.name)
            self.assertFalse(host.exists("/var/cache/skydive-previous"))

    def assertTakenBack(self, variables, version):
        untouched = self.h2.started(*SERVICES)
        units = {name: self.h1.output("systemctl", "cat", name) for name in SERVICES}
        cached = self.h1.output("find /var/cache/skydive -type f -exec sha256sum {} +", check=False)
        play = self.upgrade(variables, fails=True)
        self.assertRegex(play.output, r"h1 runs what it ran before: the upgrade failed \(")
        self.assertEqual(self.h2.started(*SERVICES), untouched, "the next host was left alone")
        for name in SERVICES:
            self.assertEqual(running(self.h1, name), {name: version})
            self.assertEqual(self.h1.output("systemctl", "cat", name), units[name])
        self.assertEqual(self.h1.output("find /var/cache/skydive -type f -exec sha256sum {} +", check=False), cached)
        self.lab.play(lab.VERIFY, self.inventory)

    def test_1_rolling(self):
        self.lab.play(lab.PLAYBOOK, self.inventory, self.binary(self.old))
        self.assertRuns(OLD)
        started = {host: host.started(*SERVICES) for host in self.hosts}
        stop, silent, asked = threading.Event(), [], []

        def ask():
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                while not stop.wait(0.1):
                    who = list(pool.map(answers, self.hosts))
                    asked.append(who)
                    if not any(who):
                        silent.append(len(asked))
        asking = threading.Thread(target=ask)
        asking.start()
        try:
            play = self.upgrade(self.binary(self.new))
        finally:
            stop.set()
            asking.join()
        self.assertRuns(NEW)
        for host in self.hosts:
            self.assertTrue(set(started[host].values()).isdisjoint(host.started(*SERVICES).values()))
        self.assertGreater(len(asked), 20)
        self.assertEqual(silent, [], "the cluster went on answering")
        order = re.findall(r"changed: \[(h\d)\]", play.output)
        self.assertEqual(order, sorted(order), "one after the other")
        self.assertUnchanged(self.upgrade(self.binary(self.new)))

    def test_2_a_binary_that_does_not_serve(self):
        self.assertTakenBack(self.binary(self.broken), NEW)

    def test_6_reset(self):
        self.lab.play(lab.RESET, self.inventory, {"skydive_reset_data": True})
        self.assertUntouched(self.before)


class Packages(Upgrade):
    SHORT = False
    test_2_a_binary_that_does_not_serve = None

    @classmethod
    def setUpClass(cls):
        lab.run([lab.ROOT / ".ci" / "need", "dpkg-deb:dpkg"], cwd=lab.ROOT)
        super().setUpClass()
        for deb in cls.new.glob("skydive*_amd64.deb"):
            tree = cls.work / "tree"
            lab.run(["dpkg-deb", "-R", deb, tree])
            control = tree / "DEBIAN" / "control"
            control.write_text(control.read_text().replace("0.30.0", "0.31.0"))
            if (tree / "usr/bin/skydive").exists():
                (tree / "usr/bin/skydive").write_text(BROKEN)
            lab.run(["dpkg-deb", "--root-owner-group", "-b", tree, cls.broken / deb.name.replace("0.30.0", "0.31.0")])
            shutil.rmtree(tree)

    def package(self, directory):
        return {"skydive_deployment_mode": "package", "skydive_package_location": directory.as_uri()}

    def test_3_a_move_that_fails(self):
        self.assertTakenBack(self.package(self.broken), NEW)
        self.assertEqual(self.h1.output("dpkg-query -W -f '${db:Status-Status}\n' skydive | grep -x installed", check=False), "")

    def test_4_packages_that_do_not_serve(self):
        self.upgrade(self.package(self.old))
        self.assertRuns(OLD)
        self.assertTakenBack(self.package(self.broken), OLD)
        self.assertIn("0.29.0-1", self.h1.output("dpkg-query", "-W", "skydive"))

    def test_5_a_move_away_from_packages_that_fails(self):
        self.assertTakenBack(self.binary(self.broken), OLD)
        self.assertIn("0.29.0-1", self.h1.output("dpkg-query", "-W", "skydive"))
        self.assertFalse(self.h1.exists("/usr/bin/skydive.new"))


class Batches(lab.Case):
    """An analyzer without an agent, and agents without an analyzer; what is taken back are containers."""

    HOSTS = {"h1": "bookworm-podman", "h2": "bookworm-podman", "h3": "bookworm-podman"}
    SHORT = False

    @classmethod
    def setUpClass(cls):
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="skydive-batches-"))
        cls.addClassCleanup(shutil.rmtree, cls.work)
        binary, archive = cls.work / "skydive", cls.work / "skydive.tar"
        command = ["make", "-s", "VERSION=" + OLD, "BINARY=%s" % binary, "IMAGE=%s" % archive]
        lab.run([*command, "build"], cwd=lab.ROOT, timeout=580)
        lab.run([*command, "images"], cwd=lab.ROOT, timeout=580)
        (cls.work / "broken").write_text(BROKEN)
        cls.container = {"skydive_deployment_mode": "container", "skydive_load_docker_image": archive.as_uri()}
        cls.good, cls.bad = ({"skydive_binary_remote_location": path.as_uri()} for path in (binary, cls.work / "broken"))
        super().setUpClass()
        cls.services = {cls.h1: "skydive-analyzer", cls.h2: "skydive-agent", cls.h3: "skydive-agent"}
        cls.before = {host: host.snapshot() for host in cls.services}

    def inventory(self, **host_variables):
        return self.lab.inventory([self.h1], [self.h2, self.h3], host_variables=host_variables)

    def upgrade(self, variables, fails=False, **host_variables):
        return self.lab.play(UPGRADE, self.inventory(**host_variables), {"skydive_upgrade_batch": 1, **variables}, fails=fails)

    def started(self):
        return {host.name: host.started(name) for host, name in self.services.items()}

    def test_1_a_move_away_from_containers_that_fails(self):
        self.lab.play(lab.PLAYBOOK, self.inventory(), self.container)
        started, image = self.started(), self.h1.output("podman inspect -f '{{.Image}} {{.ImageName}}' skydive-analyzer-h1")
        play = self.upgrade(self.bad, fails=True)
        self.assertIn("h1 runs what it ran before: the upgrade failed (", play.output)
        self.assertEqual(self.h1.output("podman inspect -f '{{.Image}} {{.ImageName}}' skydive-analyzer-h1"), image)
        self.assertFalse(self.h1.exists("/usr/bin/skydive"))
        self.assertEqual({**self.started(), "h1": None}, {**started, "h1": None}, "the next hosts were left alone")
        self.lab.play(lab.VERIFY, self.inventory())
        self.assertUnchanged(self.lab.play(lab.PLAYBOOK, self.inventory(), self.container))

    def test_2_one_batch_after_the_other(self):
        play = self.upgrade(self.good)
        for host, name in self.services.items():
            self.assertEqual(running(host, name), {name: OLD})
        order = re.findall(r"changed: \[(h\d)\]", play.output)
        self.assertEqual(order, sorted(order))

    def test_3_a_batch_that_fails(self):
        started = self.started()
        play = self.upgrade({}, fails=True, h1=self.good, h2=self.bad, h3=self.bad)
        self.assertIn("h2 runs what it ran before: the upgrade failed (", play.output)
        self.assertNotIn("h3 runs", play.output)
        self.assertEqual(running(self.h2, "skydive-agent"), {"skydive-agent": OLD})
        self.assertEqual({**self.started(), "h2": None}, {**started, "h2": None})

    def test_4_reset(self):
        self.lab.play(lab.RESET, self.inventory(), {"skydive_reset_data": True})
        self.assertUntouched(self.before)


if __name__ == "__main__":
    unittest.main()
