"""What the controller downloads: files/release.py against releases made here, signed by throw-away keys, over HTTP on loopback."""

import functools
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

import variables

SCRIPT = variables.ROLE / "files" / "release.py"
PACKAGES = variables.ROLE / "files" / "packages.sh"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def gpg(home, *argv):
    return subprocess.run(["gpg", "--homedir", home, "--batch", "--quiet", "--yes", "--pinentry-mode", "loopback", "--passphrase", "", *argv],
                          check=True, capture_output=True).stdout


class Release(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="skydive-release-"))
        cls.addClassCleanup(shutil.rmtree, cls.work)
        for who in ("ours", "foreign"):
            home = cls.work / who
            home.mkdir(mode=0o700)
            gpg(home, "--quick-generate-key", who + "@example.org", "ed25519", "sign", "never")
            cls.addClassCleanup(subprocess.run, ["gpgconf", "--homedir", home, "--kill", "all"], check=False, capture_output=True)
            (cls.work / (who + ".gpg")).write_bytes(gpg(home, "--export"))
            (cls.work / (who + ".asc")).write_bytes(gpg(home, "--export", "--armor"))

    def setUp(self):
        self.root = pathlib.Path(tempfile.mkdtemp(dir=self.work))
        self.cache = self.root / "cache"
        self.release = self.root / "www" / "v1.2.3"
        self.release.mkdir(parents=True)
        for name in ("skydive-linux-amd64", "skydive-linux-arm64", "skydive_1.2.3-1_amd64.deb"):
            (self.release / name).write_text(name)
        (self.release / "VERSION").write_text("v1.2.3\n")
        self.seal()
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=self.root / "www"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.url = "http://127.0.0.1:%d" % server.server_port

    def seal(self, who="ours"):
        files = sorted(path for path in self.release.iterdir() if not path.name.startswith("sha256sums"))
        sums = "".join("%s  %s\n" % (hashlib.sha256(path.read_bytes()).hexdigest(), path.name) for path in files)
        (self.release / "sha256sums").write_text(sums)
        gpg(self.work / who, "--armor", "--detach-sign", "--output", self.release / "sha256sums.asc", self.release / "sha256sums")

    def fetch(self, *names, release="v1.2.3", keyring="ours.gpg", unsigned="no", url=None, **environ):
        keyring = str(self.work / keyring) if keyring else ""
        return subprocess.run([sys.executable, SCRIPT, url or self.url, release, keyring, unsigned, *(names or ["skydive-linux-amd64"])],
                              text=True, capture_output=True, env={**os.environ, "XDG_CACHE_HOME": str(self.cache), **environ})

    def accepted(self, *names, **options):
        done = self.fetch(*names, **options)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def refused(self, *words, **options):
        done = self.fetch(**options)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual([path for path in self.cache.rglob("*") if path.is_file()], [], "nothing of it is kept")

    def test_signed(self):
        answer = self.accepted("skydive-linux-amd64", "skydive_*_amd64.deb")
        self.assertEqual(answer["version"], "v1.2.3")
        self.assertEqual(sorted(answer["files"]), ["skydive-linux-amd64", "skydive_1.2.3-1_amd64.deb"])
        for name, file in answer["files"].items():
            self.assertEqual(pathlib.Path(file["path"]).read_text(), name)
            self.assertEqual(file["sha256"], hashlib.sha256(name.encode()).hexdigest())
        self.assertEqual(pathlib.Path(answer["directory"]), self.cache / "skydive" / "releases" / "v1.2.3")

    def test_armored_keyring_and_files(self):
        self.accepted(keyring="ours.asc")
        self.accepted(url=(self.root / "www").as_uri())

    def test_several_keys(self):
        both = (self.work / "foreign.asc").read_bytes() + (self.work / "ours.asc").read_bytes()
        (self.work / "both.asc").write_bytes(both)
        self.accepted(keyring="both.asc")

    def test_latest_says_which_it_is(self):
        (self.root / "www" / "latest").symlink_to("v1.2.3")
        self.assertEqual(self.accepted(release="latest")["version"], "v1.2.3")

    def test_missing_signature(self):
        (self.release / "sha256sums.asc").unlink()
        self.refused("sha256sums.asc", "not known to be genuine", "skydive_release_keyring")

    def test_foreign_signature(self):
        self.seal("foreign")
        self.refused("is by key", "skydive_release_keyring")

    def test_wrong_signature(self):
        sums = self.release / "sha256sums"
        sums.write_text(sums.read_text().replace("a", "b"))
        self.refused("is not the signature of sha256sums")

    def test_no_signature_at_all(self):
        (self.release / "sha256sums.asc").write_text("hello\n")
        self.refused("sha256sums.asc", "skydive_release_keyring")

    def test_unsigned_only_when_asked_for(self):
        (self.release / "sha256sums.asc").unlink()
        self.refused("skydive_release_keyring", "skydive_release_unsigned", keyring="")
        self.refused("skydive_release_keyring", unsigned="yes")  # who gives keys wants a signature
        self.accepted(keyring="", unsigned="yes")

    def test_wrong_checksum(self):
        (self.release / "skydive-linux-amd64").write_text("something else")
        self.refused("skydive-linux-amd64 has the SHA-256", "the release says")

    def test_what_is_cached_is_checked_again(self):
        path = pathlib.Path(self.accepted()["files"]["skydive-linux-amd64"]["path"])
        path.write_text("tampered with")
        self.accepted()
        self.assertEqual(path.read_text(), "skydive-linux-amd64")

    def test_an_old_release_in_place_of_a_new_one(self):
        shutil.copytree(self.release, self.root / "www" / "v1.3.0")
        self.refused("holds release v1.2.3, not v1.3.0", release="v1.3.0")

    def test_no_such_release_file_or_server(self):
        self.refused("skydive_download_base_url", "404", release="v9")
        done = self.fetch("skydive-linux-riscv64")
        self.assertIn("release v1.2.3 of %s has no skydive-linux-riscv64" % self.url, done.stderr)
        self.refused("skydive_download_base_url", "refused", url="http://127.0.0.1:1")

    def test_names_that_lead_elsewhere_are_not_taken(self):
        (self.release / "sha256sums").write_text("%s  ../../escape\n" % ("0" * 64) + (self.release / "sha256sums").read_text())
        gpg(self.work / "ours", "--armor", "--detach-sign", "--output", self.release / "sha256sums.asc", self.release / "sha256sums")
        done = self.fetch("*escape*")
        self.assertIn("has no *escape*", done.stderr)

    def test_without_gpgv_the_way_out_is_named(self):
        self.refused("gpgv", "skydive_release_keyring", PATH="/nonexistent")


class Packages(unittest.TestCase):
    """files/packages.sh on directories and checkouts made here."""

    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="skydive-packages-"))
        self.addCleanup(shutil.rmtree, self.work)

    def fill(self, directory, version, names=("skydive", "skydive-analyzer", "skydive-agent")):
        directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            (directory / ("%s_%s_amd64.deb" % (name, version))).write_text(name)
            (directory / ("%s-%s.x86_64.rpm" % (name, version))).write_text(name)

    def packages(self, where, *kinds, **environ):
        done = subprocess.run(["/bin/sh", PACKAGES, where, *kinds], text=True, capture_output=True, env={**os.environ, **environ})
        return done.returncode, [line.split() for line in done.stdout.splitlines()], done.stderr

    def test_a_directory(self):
        self.fill(self.work, "1.2.3~rc1-1")
        code, found, _ = self.packages(self.work, "deb/x86_64", "rpm/x86_64")
        self.assertEqual(code, 0)
        self.assertEqual([line[:3] for line in found], [[kind, name, "1.2.3~rc1-1"] for kind in ("deb/x86_64", "rpm/x86_64")
                                                        for name in ("skydive", "skydive-analyzer", "skydive-agent")])
        for line in found:
            self.assertEqual(line[3], hashlib.sha256(pathlib.Path(line[4]).read_bytes()).hexdigest())

    def test_what_is_refused(self):
        for prepare, kind, words in (
                (lambda: None, "deb/x86_64", "holds no package skydive for x86_64"),
                (lambda: self.fill(self.work, "1-1"), "deb/aarch64", "holds no package skydive for aarch64"),
                (lambda: self.fill(self.work, "2-1"), "deb/x86_64", "holds several versions")):
            prepare()
            code, _, error = self.packages(self.work, kind)
            self.assertEqual(code, 1)
            self.assertIn(words, error)
        self.assertIn("is no directory", self.packages(self.work / "absent", "deb/x86_64")[2])

    def test_a_checkout_makes_them_when_they_are_old(self):
        def git(*args):
            subprocess.run(["git", "-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false", *args],
                           cwd=self.work, check=True, stdout=subprocess.DEVNULL)
        (self.work / "packaging").mkdir()
        shutil.copy(variables.ROLE.parents[2] / "packaging" / "version.sh", self.work / "packaging")
        script = self.work / "packaging" / "packages.sh"
        script.write_text("#!/bin/sh\nset -e\nmkdir -p build/packages\nrm -f build/packages/*\n"
                          "version=$(packaging/version.sh \"$(git describe --tags --always)\" \"$(git log -1 --format=%ct)\")-1\n"
                          "for name in skydive skydive-analyzer skydive-agent; do echo >build/packages/${name}_${version}_amd64.deb; done\n")
        script.chmod(0o755)
        (self.work / "Makefile").write_text("packages:\n\t@packaging/packages.sh\n")
        (self.work / "tools").mkdir()
        for tool in ("go", "uname"):
            (self.work / "tools" / tool).write_text("#!/bin/sh\necho x86_64\n")
            (self.work / "tools" / tool).chmod(0o755)
        path = {"PATH": "%s:%s" % (self.work / "tools", os.environ["PATH"])}
        git("init", "-q")
        git("add", "Makefile", "packaging")
        git("commit", "-q", "-m", "one")
        code, _, error = self.packages(self.work, "deb/x86_64", SKYDIVE_CHECK="yes", **path)
        self.assertEqual(code, 1)
        self.assertIn("make packages", error)
        for wanted in (True, False):  # made, and then there
            code, found, error = self.packages(self.work, "deb/x86_64", **path)
            self.assertEqual((code, ["built"] in found, len(found)), (0, wanted, 3 + wanted), error)
        first = found[0][2]
        git("commit", "-q", "--allow-empty", "-m", "two")
        code, found, _ = self.packages(self.work, "deb/x86_64", **path)
        self.assertEqual((code, found[0]), (0, ["built"]))
        self.assertNotEqual(found[1][2], first)
        code, _, error = self.packages(self.work, "deb/aarch64", **path)
        self.assertEqual(code, 1)
        self.assertIn("skydive_package_location", error)


if __name__ == "__main__":
    unittest.main()
