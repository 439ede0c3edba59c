"""What the roles do beside installing: tags, verification, probes that do not run, certificates, and Ansible that is too old."""

import re
import subprocess
import tempfile
import unittest

import lab

VARIABLES = {"skydive_auth_type": "basic", "skydive_nic": "eth0", "skydive_extra_config": {"agent.topology.probes": ["docker", "neutron", "ovsdb", "socketinfo"]}}
BOTH = ("skydive-analyzer", "skydive-agent")


def ran(play, task, host="h1"):
    """Whether a task did anything but be skipped there."""
    found = re.search(r"TASK \[[^\]]*%s[^\]]*\] \*+\n((?:(?!TASK|PLAY|RUNNING).*\n)*)" % re.escape(task), play.output)
    return bool(found and re.search(r"^(ok|changed|fatal): \[%s" % host, found.group(1), re.M))


class Services(lab.Case):
    HOSTS = {"h1": "bookworm", "h2": "bookworm"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.inventory = cls.lab.inventory([cls.h1], [cls.h1, cls.h2], VARIABLES)

    def play(self, variables=None, playbook=lab.PLAYBOOK, **options):
        return self.lab.play(playbook, self.inventory, variables, **options)

    def test_1_verification_can_be_left_out(self):
        play = self.play({"skydive_deployment_test": False})
        self.assertFalse(ran(play, "Every agent is connected"))

    def test_2_verification_names_the_probes_that_do_not_run(self):
        play = self.play()
        self.assertTrue(ran(play, "Every agent is connected"))
        for host in ("h1", "h2"):
            for probe in ("docker", "neutron", "ovsdb", "socketinfo"):
                self.assertRegex(play.output, r"%s: probe %s (is absent|has failed): \w+" % (host, probe))
        self.assertUnchanged(play if play.changed == 0 else self.play())

    def test_4_verification_says_who_is_missing(self):
        self.h2.run("systemctl stop skydive-agent")
        self.addCleanup(self.h2.run, "systemctl start skydive-agent")
        play = self.play({"_skydive_retries": 2}, playbook=lab.VERIFY, fails=True)
        self.assertIn("h2 is not connected to %s:8082; connected are: h1." % self.h1.address, play.output)

    def certificates(self, again=False):
        """A certificate authority, and what it signed for the analyzer and the agents."""
        work = self.lab.work / "tls"
        work.mkdir(exist_ok=again)
        script = r"""
[ -e ca.crt ] || openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt
for name in server client; do
    openssl req -newkey rsa:2048 -nodes -subj /CN=$name -keyout $name.key -out $name.csr
    printf 'subjectAltName=IP:%s\n' "$1" >$name.ext
    openssl x509 -req -days 2 -in $name.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile $name.ext -out $name.crt
done"""
        subprocess.run(["sh", "-ec", script, "sh", self.h1.address], cwd=work, check=True, capture_output=True)
        return {"skydive_tls_" + name: str(work / file) for name, file in (
            ("ca_cert", "ca.crt"), ("server_cert", "server.crt"), ("server_key", "server.key"), ("client_cert", "client.crt"), ("client_key", "client.key"))}

    def test_5_a_deployment_gets_certificates(self):
        """What ran in clear text goes on encrypted; the certificates of openssl, those of one authority, do as well as our own."""
        given = self.certificates()
        first = self.play(given, diff=True, verbose=1)
        self.assertNotIn("PRIVATE KEY", first.output)
        self.assertTrue(ran(first, "Every agent is connected"))
        self.assertEqual(self.h1.stat("/etc/skydive/tls"), "750 root:skydive")
        # The agents listen on eth0 here, so that they serve TLS, too.
        for host in (self.h1, self.h2):
            self.assertEqual(host.output("ls /etc/skydive/tls").split(), ["ca.crt", "client.crt", "client.key", "server.crt", "server.key"])
        for file in ("server.key", "client.crt"):
            self.assertEqual(self.h1.stat("/etc/skydive/tls/" + file), "640 root:skydive")
        self.assertUnchanged(self.play(given))
        with self.assertRaisesRegex(lab.Failed, "400"):
            self.h2.http("http://%s:8082/api" % self.h1.address)
        # Another certificate is taken into use by the services themselves, or by a restart: in any case it works.
        self.certificates(again=True)
        self.play(given)
        self.assertUnchanged(self.play(given))

    def test_7_reset(self):
        self.lab.play(lab.RESET, self.inventory, {"skydive_reset_data": True})
        for host in (self.h1, self.h2):
            self.assertFalse(host.exists("/etc/skydive"), host.name)


class Tags(Services):
    SHORT = False

    def test_3_tags_do_what_they_say(self):
        before = {host: host.started(*BOTH) for host in (self.h1, self.h2)}
        debug = {"skydive_extra_config": {"logging.level": "DEBUG"}}
        play = self.play(debug, tags=["config"])
        self.assertEqual({task.rpartition(": ")[2] for task in play.tasks if "restart" not in task}, {"Configuration is written"}, play.tasks)
        for host, services in ((self.h1, BOTH), (self.h2, BOTH[1:])):
            for service in services:
                self.assertNotEqual(host.started(service), {service: before[host][service]}, "%s of %s was not restarted" % (service, host.name))
        self.assertFalse(ran(play, "Every agent is connected"))
        self.assertUnchanged(self.play(debug, tags=["config"]))
        after = {host: host.started(*BOTH) for host in (self.h1, self.h2)}
        for tag in ("tests", "verify"):
            play = self.play(debug, tags=[tag])
            self.assertUnchanged(play)
            self.assertTrue(ran(play, "Every agent is connected"), tag)
            self.assertFalse(ran(play, "Configuration is written"), tag)
        for tag in ("preflight", "install", "run", "iptables", "keystone"):
            play = self.play(debug, tags=[tag])
            self.assertUnchanged(play)
            self.assertFalse(ran(play, "Configuration is written"), tag)
        self.h2.run("systemctl stop skydive-agent")
        play = self.play(debug, tags=["run"])
        self.assertTrue(self.h2.pid("skydive-agent"))
        self.assertEqual(self.h1.started(*BOTH), after[self.h1])
        self.assertUnchanged(self.play(debug, playbook=lab.VERIFY))

    def test_6_old_ansible_is_told_so(self):
        """By the newest release that is too old, and by one that is older."""
        for release in ("2.13", "2.11"):
            with tempfile.TemporaryDirectory() as work:
                lab.run(["/usr/bin/python3", "-m", "venv", work])
                lab.run([work + "/bin/pip", "install", "-q", "ansible-core==%s.*" % release])
                play = self.play(fails=True, ansible=work + "/bin/ansible-playbook")
            self.assertIn("these roles need ansible-core 2.14 or newer; this is %s." % release, play.output)
            self.assertEqual(play.changed, 0)


if __name__ == "__main__":
    unittest.main()
