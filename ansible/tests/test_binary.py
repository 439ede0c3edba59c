"""What the controller deploys: files/binary.sh on checkouts made here, with a Makefile whose product tells its commit."""

import hashlib
import os
import pathlib
import subprocess
import tempfile
import unittest

import variables

SCRIPT = variables.ROLE / "files" / "binary.sh"
MAKEFILE = """build:
\t@mkdir -p build
\t@printf '#!/bin/sh\\necho skydive x %s\\n' "$$(git describe --tags --always)" >build/skydive
\t@chmod +x build/skydive
.PHONY: build
"""


class Binary(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.tools = pathlib.Path(directory.name, "tools")
        self.checkout = pathlib.Path(directory.name, "checkout")
        self.checkout.mkdir()
        self.tools.mkdir()
        go = self.tools / "go"
        go.write_text("#!/bin/sh\n")
        go.chmod(0o755)
        (self.checkout / "Makefile").write_text(MAKEFILE)
        self.git("init", "-q")
        self.commit("one")

    def git(self, *args):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *args], cwd=self.checkout, check=True, stdout=subprocess.DEVNULL)

    def commit(self, text):
        (self.checkout / "file").write_text(text)
        self.git("add", ".")
        self.git("commit", "-q", "-m", text)

    def run_script(self, what=None, checksum="", **environ):
        path = "%s:%s" % (self.tools, os.environ["PATH"])
        done = subprocess.run(["/bin/sh", SCRIPT, what or self.checkout, checksum], env={**os.environ, "PATH": path, **environ},
                              text=True, capture_output=True)
        return done.returncode, done.stdout.split(), done.stderr

    def sum(self):
        return hashlib.sha256((self.checkout / "build" / "skydive").read_bytes()).hexdigest()

    def test_missing_is_built_and_fresh_is_not(self):
        code, words, _ = self.run_script()
        self.assertEqual((code, words), (0, ["built", self.sum()]))
        code, words, _ = self.run_script()
        self.assertEqual((code, words), (0, [self.sum()]))

    def test_older_than_head_is_built_anew(self):
        self.run_script()
        before = self.sum()
        self.commit("two")
        _, words, _ = self.run_script()
        self.assertEqual(words, ["built", self.sum()])
        self.assertNotEqual(before, self.sum())

    def test_check_mode_builds_nothing(self):
        code, _, error = self.run_script(SKYDIVE_CHECK="yes")
        self.assertEqual(code, 1)
        self.assertIn("does not exist", error)
        self.assertFalse((self.checkout / "build").exists())

    def test_without_go_the_way_out_is_named(self):
        bare = pathlib.Path(self.tools.parent, "bare")
        bare.mkdir()
        for tool in ("git", "cut", "sha256sum", "cat"):
            (bare / tool).symlink_to(subprocess.check_output(["sh", "-c", "command -v " + tool], text=True).strip())
        script = SCRIPT.read_text().replace("/usr/local/go/bin", "/nonexistent")
        done = subprocess.run(["/bin/sh", "-s", self.checkout], input=script, env={"PATH": str(bare)}, text=True, capture_output=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("skydive_binary_remote_location", done.stderr)

    def test_a_given_file_is_taken_as_it_is(self):
        given = self.checkout / "file"
        self.assertEqual(self.run_script(given)[1], [hashlib.sha256(given.read_bytes()).hexdigest()])
        code, _, error = self.run_script(given, checksum="0" * 64)
        self.assertEqual(code, 1)
        self.assertIn("skydive_binary_checksum", error)
        code, _, error = self.run_script(self.checkout / "absent")
        self.assertEqual(code, 1)
        self.assertIn("does not exist", error)


if __name__ == "__main__":
    unittest.main()
