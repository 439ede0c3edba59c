"""What holds for a deployment in binary mode: h1 has the analyzer and an agent, h2 an agent, and the API asks for a password."""

import re
import unittest

import lab

# What the agent needs: DAC_READ_SEARCH NET_ADMIN NET_RAW SYS_PTRACE SYS_ADMIN; and may have: BPF and PERFMON.
NEEDED, ALLOWED = 0x283004, 0xc000283004
# Highest exposure that systemd-analyze security may find, out of 10.
EXPOSURE = {"analyzer": 2.0, "agent": 4.0}


class Deploy(lab.Case):
    HOSTS = {"h1": "bookworm", "h2": "bookworm"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.both = [cls.h1, cls.h2]
        cls.inventory = cls.lab.inventory([cls.h1], cls.both, {"skydive_auth_type": "basic"}, {
            name: {"skydive_extra_config": {"agent.metadata": {"Rack": "r.1"}, "logging.level": "DEBUG"}} for name in ("h1", "h2")})
        cls.before = {host: host.snapshot() for host in cls.both}

    def play(self, playbook=lab.PLAYBOOK, variables=None, **options):
        return self.lab.play(playbook, self.inventory, variables, **options)

    def refused(self, what, variables, **options):
        """The sentence comes with the host that it is about, and nothing has changed there."""
        self.assertRegex(self.play(variables=variables, fails=True, **options).output, r"(?s)(fatal|failed): \[(h\d|localhost).*" + what)
        self.assertUntouched(self.before)

    def refused_later(self, what, variables=None, inventory=None):
        """The same where Skydive runs already: it goes on as it was."""
        before = {host: (host.snapshot(), host.started(*lab.SERVICES)) for host in self.both}
        play = self.lab.play(lab.PLAYBOOK, inventory or self.inventory, variables, fails=True)
        self.assertRegex(play.output, what)
        for host in self.both:
            snapshot, started = before[host]
            self.assertUntouched({host: snapshot})
            self.assertEqual(host.started(*lab.SERVICES), started)

    def test_01_a_misspelt_variable_is_refused(self):
        self.refused("did you mean skydive_analyzer_port", {"skydive_analyser_port": 1})

    def test_02_a_wrong_type_is_refused(self):
        self.refused("unable to convert to int", {"skydive_agent_port": "http"})

    def test_03_a_download_without_checksum_is_refused(self):
        self.refused("skydive_binary_checksum must say", {"skydive_binary_remote_location": "https://example.org/skydive"})

    def test_04_a_port_that_is_taken_is_refused(self):
        self.h1.start("python3", "-m", "http.server", "8082")
        lab.wait(lambda: self.h1.listens(8082), 10, "something else on port 8082")
        try:
            self.refused("0.0.0.0:8082 is held by process .*python3 -m http.server", None, diff=True)
        finally:
            self.h1.run("pkill", "-f", "http.server")

    def test_04_check_mode_before_the_first_run_tells_what_it_would_do(self):
        play = self.play(check=True, diff=True)
        self.assertIn("h2: skydive_common : Configuration is written", play.tasks)
        self.assertUntouched(self.before)

    def test_05_first_run(self):
        play = self.play(verbose=1)
        type(self).passwords = re.findall(r"(?m)^skydive_\w+: (.*)$", self.h1.output("cat", "/etc/skydive/credentials.yml"))
        self.assertEqual(len(self.passwords), 3)
        for password in self.passwords:
            self.assertNotIn(password, play.output)

    def test_06_no_password_is_seen_on_the_hosts(self):
        for host in self.both:
            readable = host.output("ps -eo args; journalctl --no-pager -u skydive-agent -u skydive-analyzer;"
                                   "find /etc /var /run /tmp /root -xdev -type f -perm -o=r -size -1M -exec cat {} + 2>/dev/null | tr -cd '\\11\\12\\40-\\176'")
            self.assertIn("/usr/bin/skydive", readable)
            for password in self.passwords:
                self.assertFalse(password in readable, "a password can be read on %s" % host.name)

    def test_07_files_have_their_modes(self):
        self.assertEqual(self.h1.stat("/etc/skydive"), "750 root:skydive")
        self.assertEqual(self.h1.stat("/etc/skydive/credentials.yml"), "600 root:root")
        self.assertFalse(self.h2.exists("/etc/skydive/credentials.yml"))
        for host in self.both:
            self.assertEqual(host.stat("/etc/skydive/skydive.yml"), "640 root:skydive")
            self.assertEqual(host.stat("/var/lib/skydive"), "750 skydive:skydive")
            self.assertEqual(host.stat("/usr/bin/skydive"), "755 root:root")

    def status(self, host, service):
        text = host.output("cat", "/proc/%d/status" % host.pid("skydive-" + service))
        return {key: value.split()[0] for key, value in re.findall(r"(?m)^(\w+):\s+(\S.*)$", text)}

    def test_08_services_are_confined(self):
        for host in self.both:
            uid = host.output("id", "-u", "skydive")
            self.assertLess(int(uid), 1000)
            status = self.status(host, "agent")
            self.assertEqual((status["Uid"], status["NoNewPrivs"]), (uid, "1"))
            effective = int(status["CapEff"], 16)
            self.assertEqual((effective & NEEDED, effective & ~ALLOWED), (NEEDED, 0))
        status = self.status(self.h1, "analyzer")
        self.assertEqual((status["Uid"], int(status["CapBnd"], 16)), (self.h1.output("id", "-u", "skydive"), 0))
        for service, bar in EXPOSURE.items():
            text = self.h1.output("systemd-analyze", "security", "--no-pager", "skydive-" + service)
            self.assertLessEqual(float(re.search(r"exposure level.*: ([\d.]+) ", text).group(1)), bar, service)

    def test_09_configuration_holds_what_the_host_needs(self):
        configuration = self.h2.output("cat", "/etc/skydive/skydive.yml")
        self.assertIn("Rack: r.1", configuration)
        self.assertNotRegex(configuration, "(?m)^analyzer:")

    def query(self, gremlin, password=None):
        environ = {"SKYDIVE_ANALYZER": self.h1.address + ":8082"}
        if password:
            environ.update(SKYDIVE_USERNAME="skydive", SKYDIVE_PASSWORD=password)
        return self.h1.run("skydive", "client", "query", gremlin, env=environ, check=False)

    def sees(self, answer, gremlin):
        def asked():
            return self.query(gremlin, self.passwords[0]).stdout.strip() == answer
        lab.wait(asked, 15, lambda: "%s for %s: %s" % (answer, gremlin, self.query(gremlin, self.passwords[0])))

    def test_10_namespaces_come_and_go_in_the_graph(self):
        self.sees("2", "G.V().Has('Type', 'host').Count()")
        self.h2.run("ip", "netns", "add", "later")
        self.h2.start("unshare", "--net", "sleep", "300")
        self.sees("1", "G.V().Has('Type', 'netns', 'Name', 'later').Out('Name', 'lo').Count()")
        self.sees("1", "G.V().Has('Type', 'netns', 'Name', Regex('(sleep|unshare)-.*')).Out('Name', 'lo').Count()")
        self.h2.run("pkill sleep; ip netns delete later")
        self.sees("0", "G.V().Has('Type', 'netns').Count()")

    def test_11_who_has_no_password_sees_nothing(self):
        for password in (None, "wrong"):
            answer = self.query("G.V().Count()", password)
            self.assertNotEqual(answer.returncode, 0)
            self.assertNotRegex(answer.stdout, r"\d")

    def test_12_a_mode_that_there_is_not_is_refused(self):
        self.refused_later(r"fatal: \[h1\].*skydive_deployment_mode.*must be one of.*rpm", {"skydive_deployment_mode": "rpm"})

    def test_12_a_missing_group_is_refused(self):
        inventory = self.lab.inventory([], [self.h2], name="no-analyzers.json")
        self.refused_later(r"fatal: \[h2\].*the group analyzers of the inventory has no host", inventory=inventory)

    def test_12_a_wrong_checksum_is_refused(self):
        self.refused_later("skydive_binary_checksum: the SHA-256 of .* is", {"skydive_binary_checksum": "0" * 64})

    def test_12_a_full_disk_is_refused(self):
        self.h2.run("mkdir /mnt/full && mount -t tmpfs -o size=1m full /mnt/full")
        try:
            location = "/mnt/full/skydive' if inventory_hostname == 'h2' else '/usr/bin/skydive"
            self.refused_later(r"fatal: \[h2\].*/mnt/full", {"skydive_binary_location": "{{ '%s' }}" % location})
        finally:
            self.h2.run("umount /mnt/full && rmdir /mnt/full")

    def test_12_what_is_there_already_is_left_alone(self):
        started = {host: host.started(*lab.SERVICES) for host in self.both}
        self.assertUnchanged(self.play())
        self.assertUnchanged(self.play(check=True, diff=True))
        self.assertUnchanged(self.play(lab.VERIFY))
        self.assertEqual(started, {host: host.started(*lab.SERVICES) for host in self.both})

    def test_13_extra_configuration_wins_and_mistakes_do_not(self):
        self.play(variables={"skydive_extra_config": {"agent.listen": "127.0.0.1:8091", "logging.level": "DEBUG"}})
        lab.wait(lambda: self.h2.listens(8091), 10, "the agent on the port of skydive_extra_config")
        bad = self.play(variables={"skydive_extra_config": {"agent.topolgy.probes": []}}, fails=True)
        self.assertIn("topolgy", bad.output)
        self.assertNotIn("topolgy", self.h2.output("cat", "/etc/skydive/skydive.yml"))
        self.assertTrue(self.h2.listens(8091))

    def test_14_a_killed_agent_comes_back(self):
        pid = self.h2.pid("skydive-agent")
        self.h2.run("kill", "-9", str(pid))
        lab.wait(lambda: self.h2.pid("skydive-agent") not in (0, pid), 10, "a new agent")
        self.play(lab.VERIFY)

    def test_15_an_agent_that_cannot_reach_the_analyzer_is_named(self):
        # Stopped while its goodbye still arrives: a connection that only falls silent counts until the next pings are missed.
        self.h2.run("systemctl", "stop", "skydive-agent")
        self.h2.run("ip", "route", "add", "blackhole", self.h1.address)
        try:
            self.h2.run("systemctl", "start", "skydive-agent")
            self.assertRegex(self.play(lab.VERIFY, fails=True).output, r"fatal: \[h1\].*h2 is not connected to")
        finally:
            self.h2.run("ip", "route", "delete", "blackhole", self.h1.address)

    def test_16_reset_leaves_nothing(self):
        self.play(lab.RESET, {"skydive_reset_data": True})
        self.assertUntouched(self.before)
        self.assertUnchanged(self.play(lab.RESET, {"skydive_reset_data": True}))


if __name__ == "__main__":
    unittest.main()
