"""The container image by itself, without the roles, in Docker and both Podmans: what it is loaded from, every form of command, health,
an analyzer without privilege, and an agent with nothing but its capabilities that sees what happens on its host."""

import json
import subprocess
import tarfile
import unittest

import lab

IMAGES = lab.ROOT / "build" / "images" / "skydive.tar"
SKYDIVE = "/usr/bin/skydive"
CAPABILITIES = ["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH"]
UNPRIVILEGED = ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only"]
AGENT = ["--net=host", "--pid=host", "--user=0:0", *UNPRIVILEGED, *["--cap-add=" + name for name in CAPABILITIES],
         "--security-opt=apparmor=unconfined", "--security-opt=label=disable",
         "-v", "/run/netns:/host/run:ro,rslave", "-e", "SKYDIVE_AGENT_TOPOLOGY_NETNS_RUN_PATH=/host/run"]


def setUpModule():
    subprocess.run(["make", "-s", "images"], cwd=lab.ROOT, check=True, stdout=subprocess.DEVNULL)


class Image:
    """What is the same for all engines; `engine` and HOSTS are set below."""

    engine = None

    def cli(self, *words, **options):
        return self.host.run(self.engine, *words, env={"PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}, **options)

    def query(self, text):
        return json.loads(self.cli("exec", "analyzer", SKYDIVE, "client", "query", text).stdout)

    def healthy(self, name, status="healthy"):
        lab.wait(lambda: self.cli("inspect", "-f", "{{.State.Health.Status}}", name).stdout.strip() == status, 40,
                 lambda: "%s is %s: %s" % (name, status, self.cli("inspect", name).stdout[-3000:]))

    def up(self, name, *options):
        lab.wait(lambda: self.cli("exec", name, SKYDIVE, "health", *options, check=False).returncode == 0, 20,
                 lambda: "%s is up: %s" % (name, self.cli("logs", name, check=False)))

    @property
    def host(self):
        return self.h1

    @property
    def image(self):
        with tarfile.open(IMAGES) as archive:
            return json.load(archive.extractfile("manifest.json"))[0]["RepoTags"][0]

    def test_1_load(self):
        self.host.copy(IMAGES, "/root/skydive.tar")
        loaded = self.cli("load", "-i", "/root/skydive.tar").stdout
        self.assertIn("Loaded image", loaded)
        self.assertIn(self.image, loaded)
        version = subprocess.run([lab.ROOT / "build" / "skydive", "version"], capture_output=True, text=True, check=True).stdout.split()[-1]
        for command in (["version"], [SKYDIVE, "version", "--conf", "/etc/skydive.yml"], ["skydive", "version"]):
            with self.subTest(command):
                self.assertEqual(self.cli("run", "--rm", "--net=none", self.image, *command).stdout, "%s github.com/skydive-project/skydive %s\n" % (SKYDIVE, version))
        self.assertEqual(self.cli("run", "--rm", "--net=none", self.image, "config", "check", "/etc/skydive.yml").stdout, "")

    def test_2_commands(self):
        forms = {"default": ([], ":8082"), "analyzer": (["analyzer"], ":8082"), "listen": (["analyzer", "--listen=0.0.0.0:9090"], ":9090"),
                 "kolla": ([SKYDIVE, "analyzer", "--conf", "/etc/skydive.yml"], ":8082"), "allinone": (["allinone"], ":8081")}
        for name, (command, port) in forms.items():
            self.cli("run", "-d", "--name", name, "--net=none", *UNPRIVILEGED, self.image, *command)
        for name, (command, port) in forms.items():
            with self.subTest(name):
                self.healthy(name)
                answer = self.cli("exec", name, SKYDIVE, "health").stdout
                self.assertTrue(answer.startswith("ok: ") and answer.endswith(port + "\n"), answer)
                self.assertEqual(self.cli("exec", name, SKYDIVE, "client", "--analyzer", port, "query", "G.V().Count()", check=False).returncode, 0)
        self.cli("rm", "-f", "-v", *forms)

    def test_3_data(self):
        """A volume gets the right owner by itself; a directory must have it; what is there survives the container."""
        self.host.run("install -d -o 4242 -g 4242 -m 0700 /srv/right && install -d -m 0755 /srv/wrong")
        self.cli("volume", "create", "data")
        volume = self.cli("volume", "inspect", "-f", "{{.Mountpoint}}", "data").stdout.strip()
        for mount, path, uid in (("data", volume, "65532"), ("/srv/right", "/srv/right", "4242")):
            with self.subTest(mount):
                seen = []
                for _ in range(2):
                    self.cli("run", "-d", "--name", "keeper", "--net=none", "--user", "%s:%s" % (uid, uid), *UNPRIVILEGED,
                             "-v", mount + ":/var/lib/skydive", self.image, "analyzer")
                    self.up("keeper")
                    self.cli("rm", "-f", "keeper")
                    seen.append(self.host.output("stat -c %u:%a {0}/etcd && stat -c %i {0}/etcd/member/snap/db".format(path)).split())
                self.assertEqual(seen[0][0], uid + ":700")
                self.assertEqual(seen[0], seen[1])
        refused = self.cli("run", "--rm", "--net=none", "-v", "/srv/wrong:/var/lib/skydive", self.image, check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("/var/lib/skydive/etcd: permission denied", refused.stdout + refused.stderr)
        self.cli("volume", "rm", "data")

    def test_4_agent(self):
        self.host.run("mkdir -p /run/netns")  # a new host has none, and Podman wants what it mounts to be there
        self.cli("run", "-d", "--name", "agent", *AGENT, self.image, "agent")
        self.healthy("agent")
        not_ready = self.cli("exec", "agent", SKYDIVE, "health", "--ready", check=False)
        self.assertEqual((not_ready.returncode, "no analyzer is connected" in not_ready.stderr), (1, True), not_ready)
        self.cli("run", "-d", "--name", "analyzer", "--net=host", *UNPRIVILEGED, self.image, "analyzer")
        self.up("agent", "--ready")
        self.assertEqual(self.query("G.V().Has('Type', 'host').Values('MissingCapabilities')"), None)
        for name in ("first", "second"):  # the first makes /run/netns a mount, after the container has started
            self.host.run("ip netns add {0} && ip -n {0} link add v-{0} type veth peer name p-{0}".format(name))
            lab.wait(lambda: self.query("G.V().Has('Type', 'netns', 'Name', '%s').Out().Has('Name', 'v-%s').Count()" % (name, name)) == 1, 10,
                     "namespace %s and what is in it" % name)
        self.host.start("unshare -n sleep 300")
        lab.wait(lambda: self.query("G.V().Has('Type', 'netns').Count()") >= 3, 10, "a namespace without a name, of a process of the host")
        self.cli("restart", "-t", "5", "agent")
        lab.wait(lambda: set(self.query("G.V().Has('Type', 'netns').Values('Name')") or []) >= {"first", "second"}, 20, "the same after a restart")
        self.host.run("ip netns del first")
        lab.wait(lambda: "first" not in self.query("G.V().Has('Type', 'netns').Values('Name')"), 10, "the end of a namespace")
        self.cli("stop", "analyzer")
        self.assertEqual(self.cli("exec", "agent", SKYDIVE, "health").stdout, "ok: 127.0.0.1:8081\n")  # well, although alone


class Docker(Image, lab.Case):
    engine, HOSTS = "docker", {"h1": "bookworm-docker"}


class Podman4(Image, lab.Case):
    engine, HOSTS = "podman", {"h1": "bookworm-podman"}


class Podman5(Image, lab.Case):
    SHORT = False
    engine, HOSTS = "podman", {"h1": "trixie-podman"}


if __name__ == "__main__":
    unittest.main()
