"""What the roles decide by distribution, from facts: the table _skydive_platforms, and nothing else."""

import re
import unittest

import rendering
import variables

DEBIAN = {"nologin": "/usr/sbin/nologin", "packages": "deb", "engine": "docker", "nftables": "/etc/nftables.conf", "iptables": "/etc/iptables/rules.v4"}
RED_HAT = {"nologin": "/sbin/nologin", "packages": "rpm", "engine": "podman", "nftables": "/etc/sysconfig/nftables.conf", "iptables": "/etc/sysconfig/iptables"}
WANTED = {
    "debian-12": DEBIAN, "debian-13": DEBIAN, "ubuntu-22.04": DEBIAN, "ubuntu-24.04": DEBIAN,
    "almalinux-8": RED_HAT, "rocky-9": RED_HAT, "centos-10": RED_HAT, "fedora-42": RED_HAT,
}


def deployment(facts, given=None, look=()):
    return rendering.Deployment({"host": facts}, ["host"], ["host"], given, look=look)


class Platforms(unittest.TestCase):
    def test_each_distribution_gets_its_row(self):
        self.assertEqual(set(WANTED), {path.stem for path in rendering.FACTS.glob("*.json")})
        for name, wanted in WANTED.items():
            with self.subTest(distribution=name):
                one = deployment(rendering.facts(name))
                row = one.value("host", "_skydive_platform")
                self.assertEqual({key: row[key] for key in wanted}, wanted)
                self.assertEqual([problem for problem in one.value("host", "_skydive_problems") if problem], [])

    def test_rows_have_the_same_columns(self):
        rows = deployment(rendering.facts("debian-12")).value("host", "_skydive_platforms")
        self.assertEqual(len({tuple(sorted(row)) for row in rows.values()}), 1)

    def test_others_are_refused_by_name(self):
        facts = {**rendering.facts("debian-12"), "os_family": "Suse", "distribution": "openSUSE"}
        problems = deployment(facts).value("host", "_skydive_problems_host")
        self.assertIn("the host runs Suse: the roles know Linux of the families Debian, RedHat", problems)

    def test_the_service_manager_is_the_one_that_runs(self):
        facts = rendering.facts("debian-12")
        self.assertEqual(deployment(facts).value("host", "_skydive_service_definition % 'agent'"), "/etc/systemd/system/skydive-agent.service")
        init = rendering.Deployment({"host": facts}, ["host"], ["host"])
        init.variables.set_nonpersistent_facts("host", {"_skydive_look": {"stdout_lines": []}})
        self.assertEqual(init.value("host", "_skydive_service_definition % 'agent'"), "/etc/init.d/skydive-agent")

    def test_nothing_else_asks_for_the_distribution(self):
        asks = re.compile(r"os_family|ansible_facts\.distribution|ansible_distribution|pkg_mgr")
        for path in sorted((variables.ROLE.parent).rglob("*.yml")):
            lines = [line for line in path.read_text().splitlines() if asks.search(line)]
            if path.name in ("platforms.yml", "facts.yml"):
                continue
            self.assertEqual([line for line in lines if "not in _skydive_platforms" not in line and "the host runs" not in line and "_skydive_platforms | join" not in line],
                             [], path)


if __name__ == "__main__":
    unittest.main()
