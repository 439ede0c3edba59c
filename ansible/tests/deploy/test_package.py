"""Package mode on Debian 12 and 13: files, a release, a repository; moves between the modes; what is refused; reset."""

import functools
import hashlib
import http.server
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import unittest

import lab
from versions import NEW, OLD, SERVICES, make, running


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Files(lab.Case):
    HOSTS = {"h1": "bookworm", "h2": "trixie"}

    @classmethod
    def setUpClass(cls):
        lab.run([lab.ROOT / ".ci" / "need", "gpg:gpg", "gpgv:gpgv", "dpkg-deb:dpkg"], cwd=lab.ROOT)
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="skydive-package-"))
        cls.addClassCleanup(shutil.rmtree, cls.work)
        cls.work.chmod(0o755)
        (cls.work / "www").mkdir()
        cls.old = make(cls.work / "www", OLD)
        super().setUpClass()
        cls.inventory = cls.lab.inventory([cls.h1], [cls.h1, cls.h2])
        cls.before = {host: host.snapshot() for host in (cls.h1, cls.h2)}

    def deploy(self, mode="package", fails=False, **variables):
        variables = {"skydive_deployment_mode": mode, **variables}
        return self.lab.play(lab.PLAYBOOK, self.inventory, variables, fails=fails, environ={"XDG_CACHE_HOME": str(self.work / "cache")})

    def versions(self, host):
        lines = host.output("dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' 'skydive*' | sed -n 's/^installed //p'", check=False)
        return dict(line.split() for line in lines.splitlines())

    def starts(self, host, service):
        return int(host.output("journalctl --no-pager -o cat -u %s | grep -c '^Started '" % service, check=False))

    def count(self):
        return {(host.name, name): self.starts(host, name) for host, name in self.placed()}

    def placed(self):
        return [(self.h1, "skydive-analyzer"), (self.h1, "skydive-agent"), (self.h2, "skydive-agent")]

    def assertRuns(self, version):
        for host, name in self.placed():
            self.assertEqual(running(host, name), {name: version}, host.name)

    def test_1_files(self):
        play = self.deploy(skydive_package_location=self.old.as_uri())
        self.assertEqual(self.versions(self.h1), dict.fromkeys(("skydive", *SERVICES), "0.29.0-1"))
        self.assertEqual(self.versions(self.h2), dict.fromkeys(("skydive", "skydive-agent"), "0.29.0-1"))
        self.assertRuns(OLD)
        for host, name in self.placed():
            self.assertEqual(self.starts(host, name), 1)
            self.assertFalse(host.output("systemctl", "show", "-P", "FragmentPath", name).startswith("/etc/"), "the unit is the package's")
            self.assertEqual(host.output("systemctl", "is-enabled", name), "enabled")
        self.assertFalse(self.h1.exists("/usr/sbin/policy-rc.d"), play.end())
        self.assertFalse(self.h1.exists("/etc/systemd/system/skydive-analyzer.service.d"), "nothing differs for the analyzer")
        self.assertEqual(self.h1.stat("/etc/skydive/skydive.yml"), "640 root:skydive")
        self.h1.write("/var/lib/skydive/marker", "history\n")
        self.assertUnchanged(self.deploy(skydive_package_location=self.old.as_uri()))

    def test_7_reset(self):
        play = self.lab.play(lab.RESET, self.inventory, {"skydive_reset_data": True})
        self.assertTrue(play.changed)
        self.assertUntouched(self.before)
        self.assertUnchanged(self.lab.play(lab.RESET, self.inventory, {"skydive_reset_data": True}))


class Package(Files):
    HOSTS = {"h1": "bookworm-podman", "h2": "trixie-podman"}  # the latter knows Quadlet
    SHORT = False

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.new = make(cls.work / "www", NEW)
        for who in ("ours", "foreign"):
            (cls.work / who).mkdir(mode=0o700)
            cls.gpg(who, "--quick-generate-key", who + "@example.org", "ed25519", "sign", "never")
            (cls.work / (who + ".asc")).write_bytes(cls.gpg(who, "--export", "--armor"))
            cls.addClassCleanup(subprocess.run, ["gpgconf", "--homedir", cls.work / who, "--kill", "all"], check=False, capture_output=True)
        # The hosts reach this machine by the address of their bridge.
        address = str(cls.lab.network[1])
        server = http.server.ThreadingHTTPServer((address, 0), functools.partial(Quiet, directory=cls.work / "www"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cls.addClassCleanup(server.server_close)
        cls.addClassCleanup(server.shutdown)
        cls.url = "http://%s:%d" % (address, server.server_port)

    @classmethod
    def gpg(cls, who, *argv):
        return subprocess.run(["gpg", "--homedir", cls.work / who, "--batch", "--quiet", "--yes", "--pinentry-mode", "loopback", "--passphrase", "",
                               *argv], check=True, capture_output=True).stdout

    def sign(self, directory, who="ours"):
        files = sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith("sha256sums"))
        sums = "".join("%s  %s\n" % (hashlib.sha256(path.read_bytes()).hexdigest(), path.name) for path in files)
        (directory / "sha256sums").write_text(sums)
        self.gpg(who, "--armor", "--detach-sign", "--output", directory / "sha256sums.asc", directory / "sha256sums")
        self.gpg(who, "--armor", "--clear-sign", "--output", directory / "InRelease", directory / "Release")

    def assertStartedOnce(self, before):
        self.assertEqual({key: number - before[key] for key, number in self.count().items()}, dict.fromkeys(before, 1))

    def kept(self):
        return self.h1.output("cat /etc/skydive/credentials.yml /var/lib/skydive/marker; stat -c '%U:%G %a' /var/lib/skydive")

    def test_2_newer_files(self):
        before = self.count()
        # What the new version does not accept stops before anything is restarted.
        bad = self.deploy(skydive_package_location=self.new.as_uri(), fails=True, skydive_extra_config={"logging.levle": "DEBUG"})
        self.assertIn("levle", bad.output)
        self.assertRuns(OLD)
        self.assertEqual(self.count(), before)
        self.deploy(skydive_package_location=self.new.as_uri())
        self.assertRuns(NEW)
        self.assertStartedOnce(before)

    def test_3_moves(self):
        """Package, container, binary, and package again: one start of each service in each move, and nothing of the old mode is left."""
        state = self.kept()
        archive = self.new / "skydive-image-amd64.tar"
        lab.run(["make", "-s", "images", "VERSION=" + NEW, "BINARY=%s" % (self.new / "skydive-linux-amd64"), "IMAGE=%s" % archive], cwd=lab.ROOT, timeout=580)
        for mode, variables, version in (
                ("container", {"skydive_load_docker_image": archive.as_uri()}, NEW),
                ("binary", {"skydive_binary_remote_location": (self.old / "skydive-linux-amd64").as_uri()}, OLD),
                ("package", {"skydive_package_location": self.new.as_uri()}, NEW)):
            before = self.count()
            self.deploy(mode, **variables)
            self.assertStartedOnce(before)
            self.assertEqual(self.kept(), state)
            for host, name in self.placed():
                unit = "/etc/systemd/system/%s.service" % name
                source = host.output("systemctl", "show", "-P", "SourcePath", name) or host.output("systemctl", "show", "-P", "FragmentPath", name)
                self.assertEqual(source == unit, mode == "binary" or mode == "container" and host is self.h1, source)
                self.assertEqual(host.exists(unit), source == unit)
                self.assertEqual(host.exists("/etc/containers/systemd/%s.container" % name), mode == "container" and host is self.h2)
                self.assertEqual(bool(self.versions(host)), mode == "package")
                self.assertEqual(host.exists("/usr/bin/skydive"), mode != "container")
                self.assertFalse(host.exists("/usr/bin/skydive.new"))
                containers = host.output("podman", "ps", "-a", "--format", "{{.Names}}").split()
                self.assertEqual("%s-%s" % (name, host.name) in containers, mode == "container")
                if mode == "container":
                    self.assertEqual(host.output("podman", "exec", "%s-%s" % (name, host.name), "/usr/bin/skydive", "version").split()[-1], version)
                else:
                    self.assertEqual(host.output("podman", "images", "-q"), "")
                    self.assertEqual(running(host, name), {name: version})
        self.assertUnchanged(self.deploy(mode, **variables))

    def test_4_release(self):
        """What the controller refuses is tested without hosts (test_release.py); here, that the hosts get what it accepts."""
        self.sign(self.old)
        release = {"skydive_release": OLD, "skydive_download_base_url": self.url, "skydive_release_keyring": str(self.work / "ours.asc")}
        self.deploy(**release)
        self.assertRuns(OLD)
        self.assertUnchanged(self.deploy(**release))
        bad = self.deploy(**{**release, "skydive_release_keyring": str(self.work / "foreign.asc")}, fails=True)
        self.assertIn("skydive_release_keyring", bad.output)
        bad = self.deploy(**{**release, "skydive_release_keyring": ""}, fails=True)
        self.assertIn("skydive_release_unsigned: true does without", bad.output)
        self.assertRuns(OLD)

    def test_5_repository(self):
        repository = {"skydive_package_location": self.url + "/" + NEW, "skydive_release_keyring": str(self.work / "ours.asc")}
        self.sign(self.new, "foreign")
        bad = self.deploy(**repository, fails=True)
        self.assertIn("skydive_package_location: ", bad.output)
        self.assertRuns(OLD)
        (self.new / "InRelease").unlink()
        self.assertIn("skydive_package_location: ", self.deploy(**repository, fails=True).output)
        self.sign(self.new)
        before = self.count()
        self.deploy(**repository)
        self.assertRuns(NEW)
        self.assertStartedOnce(before)
        self.assertUnchanged(self.deploy(**repository))

    def test_6_full_disk(self):
        self.h2.run("mount -t tmpfs -o size=3m none /var/cache")
        bad = self.deploy(skydive_package_location=self.old.as_uri(), fails=True)
        self.h2.run("umount /var/cache")
        self.assertRegex(bad.output, r"fatal: \[h2\].*/var/cache has \d MiB free: this deployment needs \d+ MiB there")
        self.assertEqual(running(self.h2, "skydive-agent"), {"skydive-agent": NEW})


if __name__ == "__main__":
    unittest.main()
