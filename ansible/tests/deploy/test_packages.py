"""The packages themselves, without the roles: installed, upgraded, removed and purged where they belong."""

import gzip
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import lab

OLD, NEW = "v9.0.0", "v9.1.0"
SERVICES = ("skydive-analyzer", "skydive-agent")
NAMES = ("skydive", *SERVICES)
# NET_ADMIN NET_RAW SYS_PTRACE SYS_ADMIN DAC_READ_SEARCH; BPF and PERFMON where the host has them.
NEEDED, ALLOWED = 0x283004, 0xc000283004
SOURCES = "/etc/apt/sources.list.d/skydive-tests.sources"

lab.KINDS["bookworm-rpm"] = ("bookworm", ["rpm", "dnf"])
lab.KINDS["bookworm-selinux"] = ("bookworm", ["rpm", "netbase", "policycoreutils", "policycoreutils-python-utils", "selinux-policy-default", "setools"])

work = key = None
directories = {}


def setUpModule():
    """Two versions with different binaries and different default configurations; the old repository is signed, by a key made for it."""
    global work, key
    work = pathlib.Path(tempfile.mkdtemp(prefix="skydive-packages-"))
    unittest.addModuleCleanup(shutil.rmtree, work)
    gpg("--passphrase", "", "--quick-generate-key", "Skydive tests <tests@skydive.invalid>", "rsa3072", "sign", "never")
    unittest.addModuleCleanup(lab.run, ["gpgconf", "--homedir", work / "gnupg", "--kill", "all"])
    key = re.search(r"(?m)^fpr:+(\w+):", gpg("--list-keys", "--with-colons").stdout).group(1)
    (work / "key.asc").write_text(gpg("--armor", "--export", key).stdout)
    lab.run([lab.ROOT / ".ci" / "need", "rpm:rpm", "rpmsign:rpm", "createrepo_c:createrepo-c", "checkmodule:checkpolicy",
             "semodule_package:semodule-utils", "bzip2:bzip2"], cwd=lab.ROOT, timeout=580)
    directories[OLD] = build("old", OLD, lab.ROOT / "build" / "skydive", SKYDIVE_SIGNING_KEY=key, GNUPGHOME=str(work / "gnupg"))
    binary = work / "skydive"
    lab.run(["make", "-s", "build", "VERSION=" + NEW, "BINARY=%s" % binary], cwd=lab.ROOT, timeout=580)
    directories[NEW] = build("new", NEW, binary, default="# another default\n")


def gpg(*arguments):
    home = work / "gnupg"
    home.mkdir(mode=0o700, exist_ok=True)
    return lab.run(["gpg", "--homedir", home, "--batch", "--pinentry-mode", "loopback", *arguments])


def build(name, version, binary, default="", checkout=lab.ROOT, **environ):
    """make packages in a copy of what it reads, so that nothing of the checkout changes."""
    tree, out = work / (name + "-tree"), work / name
    tree.mkdir()
    for part in ("README.md", "LICENSE", "CHANGELOG.md", "inventory", "playbook.yml.sample", "ansible", "packaging", "etc", "tripleo"):
        source = checkout / part
        if source.is_dir():
            shutil.copytree(source, tree / part, symlinks=True)
        else:
            shutil.copy(source, tree)
    with open(tree / "etc" / "skydive.yml.default", "a") as file:
        file.write(default)
    tools = lab.ROOT / "build" / "tools"
    tools.mkdir(parents=True, exist_ok=True)
    (tree / "build").mkdir()
    (tree / "build" / "tools").symlink_to(tools)
    lab.run([tree / "packaging" / "packages.sh"], timeout=580, env={
        **{name: value for name, value in os.environ.items() if name != "SKYDIVE_SIGNING_KEY"},
        "SKYDIVE_CI": "1", "VERSION": version, "BINARY": str(binary), "OUT": str(out), "SOURCE_DATE_EPOCH": "1700000000", **environ})
    return out


def package(version, name, kind):
    found = list(directories[version].glob("%s[-_]%s*.%s" % (name, version[1:], kind)))
    assert len(found) == 1, found
    return found[0]


class Files(unittest.TestCase):
    """What can be seen without a host."""

    def test_versions_sort_as_the_commits_do(self):
        def version(description, seconds=1700000000):
            return lab.run([lab.ROOT / "packaging" / "version.sh", description, seconds]).stdout.strip()
        rising = [version("0123abc", 1600000000), version("abcdef0-dirty"), version("0000000", 1800000000), version("v1.2.2"),
                  version("v1.2.3-rc1"), version("v1.2.3-rc1-4-gabc"), version("v1.2.3-rc2"), version("v1.2.3"), version("v1.2.3-dirty"),
                  version("v1.2.3-5-gfff"), version("v1.2.3-10-g000"), version("v1.2.3-10-g000-dirty"), version("v1.2.4"), version("v1.10.0")]
        for lower, higher in zip(rising, rising[1:]):
            self.assertEqual(lab.run(["dpkg", "--compare-versions", lower + "-1", "lt", higher + "-1"], check=False).returncode, 0, (lower, higher))
            compared = lab.run(["rpm", "--eval", '%%{lua: print(rpm.vercmp("%s", "%s"))}' % (lower, higher)]).stdout.strip()
            self.assertEqual(compared, "-1", (lower, higher))
        with self.assertRaises(lab.Failed):
            version("no version")

    def test_a_second_build_has_the_same_bytes(self):
        again = build("again", NEW, work / "skydive", checkout=work / "new-tree")
        for path in sorted(directories[NEW].rglob("*")):
            if path.is_file():
                self.assertEqual(path.read_bytes(), (again / path.relative_to(directories[NEW])).read_bytes(), path.name)

    def test_deb_and_rpm_have_what_the_hosts_of_the_tests_leave_out(self):
        deb = lab.run(["dpkg-deb", "-c", package(NEW, "skydive", "deb")]).stdout
        rpm = lab.run(["rpm", "-qlp", package(NEW, "skydive", "rpm")]).stdout
        for path in ("usr/share/man/man8/skydive.8.gz", "usr/share/man/man8/skydive-cli.8.gz", "usr/share/doc/skydive/README.md",
                     "usr/share/bash-completion/completions/skydive-cli", "usr/share/fish/vendor_completions.d/skydive.fish",
                     "usr/bin/skydive-tripleo-inventory", "usr/share/man/man1/skydive-tripleo-inventory.1.gz"):
            self.assertIn(" ./" + path, deb)
            self.assertIn("/%s\n" % path, rpm)
        for path in ("usr/share/doc/skydive/copyright", "usr/share/doc/skydive/changelog.Debian.gz", "usr/share/zsh/vendor-completions/_skydive"):
            self.assertIn(" ./" + path, deb)
        for path in ("usr/share/doc/skydive/CHANGELOG.md", "usr/share/licenses/skydive/LICENSE", "usr/share/zsh/site-functions/_skydive"):
            self.assertIn("/%s\n" % path, rpm)
        self.assertIn("/usr/share/man/man8/skydive-selinux.8.gz\n", lab.run(["rpm", "-qlp", package(NEW, "skydive-selinux", "rpm")]).stdout)
        page = subprocess.run("dpkg-deb --fsys-tarfile %s | tar -xOf - ./usr/share/man/man8/skydive.8.gz" % package(NEW, "skydive", "deb"),
                              shell=True, check=True, stdout=subprocess.PIPE).stdout
        self.assertIn(b".SH SYNOPSIS", gzip.decompress(page))

    def test_dependencies_are_of_the_same_version(self):
        for service in SERVICES:
            self.assertEqual(lab.run(["dpkg-deb", "-f", package(NEW, service, "deb"), "Depends"]).stdout.strip(), "skydive (= 9.1.0-1)")
            self.assertIn("skydive = 9.1.0-1\n", lab.run(["rpm", "-qpR", package(NEW, service, "rpm")]).stdout)
        self.assertEqual(lab.run(["dpkg-deb", "-f", package(NEW, "skydive-ansible", "deb"), "Depends"]).stdout.strip(), "ansible-core (>= 2.14)")

    def test_signatures(self):
        for name in ("InRelease", "repodata/repomd.xml.asc"):
            signed = [directories[OLD] / name] + ([directories[OLD] / "repodata/repomd.xml"] if name.endswith(".asc") else [])
            gpg("--verify", *signed)
        database = ["rpm", "--define", "_dbpath %s" % (work / "rpmdb")]
        lab.run([*database, "--import", work / "key.asc"])
        for rpm in directories[OLD].glob("*.rpm"):
            self.assertIn("digests signatures OK", lab.run([*database, "-K", rpm]).stdout)
        self.assertFalse((directories[NEW] / "InRelease").exists())

    def test_the_playbook_of_the_package_is_one(self):
        tree = work / "controller"
        lab.run(["dpkg-deb", "-x", package(NEW, "skydive-ansible", "deb"), tree])
        share = tree / "usr/share/skydive-ansible"
        lab.run(["ansible-playbook", "-i", share / "inventory/hosts.localhost", "--syntax-check", share / "playbook.yml.sample"], cwd="/")
        self.assertTrue((tree / "usr/share/ansible/plugins/modules/skydive_query.py").exists())
        self.assertTrue((share / "ansible/roles/skydive_common/files/packaging/systemd/skydive-agent.service").is_file())
        self.assertFalse((share / "ansible/tests").exists())
        launcher = share / "tripleo/skydive-tripleo-inventory"
        done = lab.run(["/usr/bin/python3", launcher, "--h"], env={"PATH": str(lab.ROOT / "build")})
        self.assertIn("usage: skydive-tripleo-inventory", done.stdout)


class Installed(lab.Case):
    """What is the same for deb and rpm."""

    def installed(self, host):
        self.assertRegex(host.output("getent", "passwd", "skydive"), r"^skydive:x:\d{1,3}:\d{1,3}:Skydive:/var/lib/skydive:/\S*nologin$")
        for path, want in (("/usr/bin/skydive", "755 root:root"), ("/etc/skydive", "750 root:skydive"), ("/etc/skydive/skydive.yml", "640 root:skydive"),
                           ("/var/lib/skydive", "750 skydive:skydive"), ("/var/log/skydive", "750 skydive:skydive")):
            self.assertEqual(host.stat(path), want, path)
        self.assertEqual(host.output("ls", "-A", "/var/lib/skydive"), "")  # no files of a home directory
        self.assertEqual(host.output("readlink", "/usr/bin/skydive-cli"), "skydive")
        host.run("skydive-cli", "version")
        for service in SERVICES:
            self.assertTrue(host.exists("/usr/lib/systemd/system/%s.service" % service))
            self.assertEqual(host.output("systemctl is-enabled %s" % service, check=False), "disabled")
            self.assertEqual(host.output("systemctl is-active %s" % service, check=False), "inactive")

    def started(self, host):
        host.run("systemctl", "enable", "--now", *SERVICES)
        lab.wait(lambda: '"State": "connected"' in host.output("skydive client status", check=False), 15, "an agent that is connected")
        status = host.output("cat", "/proc/%d/status" % host.pid("skydive-agent"))
        capabilities = int(re.search(r"CapEff:\s*(\w+)", status).group(1), 16)
        self.assertEqual((capabilities & NEEDED, capabilities & ~ALLOWED), (NEEDED, 0))
        self.assertEqual(re.search(r"Uid:\s*(\d+)", status).group(1), host.output("id", "-u", "skydive"))
        status = host.output("cat", "/proc/%d/status" % host.pid("skydive-analyzer"))
        self.assertEqual(int(re.search(r"CapBnd:\s*(\w+)", status).group(1), 16), 0)

    def configure(self, host):
        host.run("echo 'host_id: mine' >>/etc/skydive/skydive.yml && systemctl restart skydive-agent")

    def upgraded(self, host, before):
        """The new version runs where the old one ran, with the user's configuration; and nothing runs that did not."""
        self.assertIn(NEW, host.output("skydive", "version"))
        self.assertEqual(host.output("systemctl is-active skydive-agent", check=False), "inactive")
        self.assertEqual(host.output("systemctl is-enabled skydive-agent skydive-analyzer"), "enabled\nenabled")
        self.assertNotEqual(host.started("skydive-analyzer"), before)
        self.assertNotIn("deleted", host.output("readlink", "/proc/%d/exe" % host.pid("skydive-analyzer")))
        self.assertTrue(host.output("cat", "/etc/skydive/skydive.yml").endswith("host_id: mine"))
        self.assertEqual(host.stat("/etc/skydive/skydive.yml"), "640 root:skydive")

    def removed(self, host):
        self.assertFalse(host.succeeds("pgrep -f '^/usr/bin/skydive '"))
        for path in ("/usr/bin/skydive", "/usr/lib/systemd/system/skydive-agent.service",
                     "/etc/systemd/system/multi-user.target.wants/skydive-analyzer.service"):
            self.assertFalse(host.exists(path), path)
        self.assertEqual(host.stat("/var/lib/skydive/etcd"), "700 skydive:skydive")
        self.assertTrue(host.succeeds("getent", "passwd", "skydive"))


class Debian(Installed):
    """From the repository that the directory is. h1 is purged; on h2 another deployment has come meanwhile."""
    HOSTS = {"h1": "bookworm", "h2": "trixie"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.both = (cls.h1, cls.h2)
        cls.before = {cls.h1: cls.h1.snapshot()}
        for host in cls.both:
            host.copy(directories[OLD], "/srv/old")
            host.copy(directories[NEW], "/srv/new")

    def apt(self, host, *words, **options):
        return host.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dir::Etc::SourceList=" + SOURCES, "-o", "Dir::Etc::SourceParts=-",
                        "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold", *words, **options)

    def source(self, host, directory, trust):
        host.write(SOURCES, "Types: deb\nURIs: file:%s\nSuites: ./\n%s\n" % (directory, trust))
        return self.apt(host, "update", check=False)

    def test_1_a_repository_that_a_foreign_key_signed_is_refused(self):
        foreign = work / "foreign"
        foreign.mkdir(mode=0o700)
        lab.run(["gpg", "--homedir", foreign, "--batch", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-generate-key", "x <x@skydive.invalid>"])
        foreign_key = lab.run(["gpg", "--homedir", foreign, "--armor", "--export"]).stdout
        lab.run(["gpgconf", "--homedir", foreign, "--kill", "all"])
        for host in self.both:
            host.write("/srv/foreign.asc", foreign_key)
            host.write("/srv/key.asc", (work / "key.asc").read_text())
            self.assertRegex(self.source(host, "/srv/old", "Signed-By: /srv/foreign.asc").stderr, "NO_PUBKEY|Missing key|not signed")
            self.assertEqual(self.source(host, "/srv/old", "Signed-By: /srv/key.asc").stderr, "")

    def test_2_install(self):
        for host in self.both:
            self.apt(host, "install", "skydive-agent", "skydive-analyzer")
            self.installed(host)
            # The image leaves out documentation and manual pages.
            verified = host.output("dpkg", "-V", *NAMES, check=False).splitlines()
            self.assertEqual([line for line in verified if not re.search(r"^missing +/usr/share/(doc|man)/", line)], [])
            self.assertEqual(host.stat("/etc/default/skydive-agent"), "640 root:root")
            self.assertFalse(host.succeeds("ls /etc/rc?.d/S*skydive*"))

    def test_3_start(self):
        for host in self.both:
            self.started(host)

    def test_4_a_reinstallation_with_policy_rc_restarts_nothing(self):
        for host in self.both:
            host.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", "0755")
            before = host.started(*SERVICES)
            self.apt(host, "install", "--reinstall", "skydive-agent", "skydive-analyzer")
            self.assertEqual(host.started(*SERVICES), before)
            host.run("rm", "/usr/sbin/policy-rc.d")

    def test_5_upgrade(self):
        for host in self.both:
            self.configure(host)
            host.run("systemctl", "stop", "skydive-agent")
            before = host.started("skydive-analyzer")
            self.assertEqual(self.source(host, "/srv/new", "Trusted: yes").stderr, "")
            self.apt(host, "dist-upgrade")
            self.upgraded(host, before)

    def test_6_remove(self):
        for host in self.both:
            self.apt(host, "remove", "skydive")
            self.removed(host)
            self.assertTrue(host.output("cat", "/etc/skydive/skydive.yml").endswith("host_id: mine"))

    def test_7_purge_leaves_nothing(self):
        self.apt(self.h1, "purge", *NAMES)
        self.h1.run("rm -rf /srv/old /srv/new /srv/*.asc %s" % SOURCES)
        self.assertUntouched(self.before)

    def test_8_purge_spares_another_deployment(self):
        self.h2.write("/etc/systemd/system/skydive-agent.service", "[Service]\nExecStart=/usr/bin/true\n")
        self.assertIn("/etc/systemd/system/skydive-agent.service is not of this package", self.apt(self.h2, "purge", *NAMES).stdout)
        self.assertTrue(self.h2.exists("/var/lib/skydive/etcd"))
        self.assertTrue(self.h2.succeeds("getent", "passwd", "skydive"))


class WithoutSystemd(lab.Case):
    """The debs where systemd is installed, but does not run: a process tree of its own, with an empty /run."""

    def test_the_init_scripts_serve(self):
        host = self.h1
        host.copy(directories[OLD], "/srv/old")
        host.copy(directories[NEW], "/srv/new")
        host.run(r"""unshare --mount --pid --fork --mount-proc sh -eux <<'END'
mount -t tmpfs none /run
dpkg -i /srv/old/skydive_*.deb /srv/old/skydive-analyzer_*.deb
! ls /etc/rc2.d/S*skydive*
update-rc.d skydive-analyzer enable
ls /etc/rc2.d/S*skydive-analyzer
/etc/init.d/skydive-analyzer start
old=$(cat /run/skydive-analyzer.pid)
dpkg -i /srv/new/skydive_*.deb /srv/new/skydive-analyzer_*.deb
/etc/init.d/skydive-analyzer status
test "$(cat /run/skydive-analyzer.pid)" != "$old"
dpkg -r skydive-analyzer
! /etc/init.d/skydive-analyzer status
dpkg -P skydive-analyzer skydive
! ls /etc/rc?.d/*skydive* /etc/init.d/skydive* /var/lib/skydive
END""")


class Rpm(Installed):
    """By dnf, from the repository that the directory is, in a Debian whose presets are those of EL. What is no RPM there, one RPM stands for."""
    HOSTS = {"h1": "bookworm-rpm"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.h1.write("/etc/systemd/system-preset/99-default-disable.preset", "disable *\n")
        cls.h1.copy(directories[OLD], "/srv/old")
        cls.h1.copy(directories[NEW], "/srv/new")

    def dnf(self, *words, **options):
        return self.h1.run("dnf", "-q", "-y", "--releasever=9", "--setopt=reposdir=/srv", *words, timeout=300, **options)

    def repository(self, directory, signed):
        self.h1.write("/srv/tests.repo", "[tests]\nname=tests\nbaseurl=file://%s\nenabled=1\ngpgcheck=%d\nrepo_gpgcheck=%d\ngpgkey=file:///srv/key.asc\n" % (
            directory, signed, signed))
        self.dnf("clean", "all")

    def test_1_what_is_not_signed_is_refused(self):
        self.h1.write("/srv/key.asc", (work / "key.asc").read_text())
        self.repository("/srv/new", True)
        refused = self.dnf("--setopt=tests.skip_if_unavailable=0", "makecache", check=False)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("repomd.xml.asc", refused.stderr)

    def test_2_install(self):
        system = work / "system.yaml"
        system.write_text("{name: system, arch: all, version: 1.0.0, description: what Debian has, maintainer: x, provides: [systemd, /usr/sbin/useradd]}")
        nfpm, = (lab.ROOT / "build" / "tools").glob("nfpm-*")
        lab.run([nfpm, "package", "--config", system, "--packager", "rpm", "--target", work / "system.rpm"])
        self.h1.copy(work / "system.rpm", "/srv/system.rpm")
        self.h1.run("rpm", "-i", "/srv/system.rpm")
        self.repository("/srv/old", True)
        self.dnf("install", "skydive-agent", "skydive-analyzer")
        self.installed(self.h1)
        self.assertEqual(self.h1.output("rpm", "-V", *NAMES), "")
        self.assertEqual(self.h1.stat("/etc/sysconfig/skydive-agent"), "640 root:root")

    def test_3_start(self):
        self.started(self.h1)

    def test_4_upgrade(self):
        self.configure(self.h1)
        self.h1.run("systemctl", "stop", "skydive-agent")
        before = self.h1.started("skydive-analyzer")
        self.repository("/srv/new", False)
        self.dnf("upgrade")
        self.upgraded(self.h1, before)
        self.assertTrue(self.h1.exists("/etc/skydive/skydive.yml.rpmnew"))

    def test_5_erase(self):
        self.dnf("remove", "skydive")
        self.removed(self.h1)
        self.assertTrue(self.h1.output("cat", "/etc/skydive/skydive.yml.rpmsave").endswith("host_id: mine"))

    def rpm(self, *words):
        return self.h1.run("rpm", "--nodeps", *words)

    def test_6_selinux_where_its_tools_are_absent(self):
        for words in (("-i", "/srv/new/skydive-selinux-9.1.0-1.noarch.rpm"), ("-e", "skydive-selinux")):
            # Debian's rpm always says that rpm is not for Debian.
            self.assertEqual([line for line in self.rpm(*words).stderr.splitlines() if not line.startswith("rpm: ")], [])

    def test_7_selinux_with_its_tools(self):
        for tool, answer in (("semodule", 0), ("semanage", 0), ("selinuxenabled", 1), ("load_policy", 0)):
            self.h1.write("/usr/sbin/" + tool, '#!/bin/sh\n{ echo "%s $*"; [ %s != semanage ] || cat; } >>/srv/calls\nexit %d\n' % (tool, tool, answer), "0755")
        self.rpm("-i", "/srv/old/skydive-selinux-9.0.0-1.noarch.rpm")
        calls = self.h1.output("cat", "/srv/calls").splitlines()
        self.assertEqual(calls[:2], ["semodule -n -X 200 -i /usr/share/selinux/packages/skydive.pp.bz2", "semanage import -N"])
        ports = [re.fullmatch(r"port -a -t \w+_ports_t -p (tcp|udp) ([\d-]+)", line) for line in calls[2:7]]
        self.assertEqual([found and found.group(2) for found in ports], ["12379-12380", "8100-8132", "6343", "6345-6355", "2480"])
        self.assertNotIn("load_policy ", calls)
        self.h1.run("rm /srv/calls")
        self.rpm("-U", "/srv/new/skydive-selinux-9.1.0-1.noarch.rpm")
        self.assertEqual([line for line in self.h1.output("cat", "/srv/calls").splitlines() if line.startswith(("semodule", "semanage", "port"))],
                         ["semodule -n -X 200 -i /usr/share/selinux/packages/skydive.pp.bz2"])
        self.h1.run("rm /srv/calls")
        self.rpm("-e", "skydive-selinux")
        calls = self.h1.output("cat", "/srv/calls").splitlines()
        self.assertEqual([line for line in calls if line.startswith("port")],
                         ["port -d -p " + port for port in ("tcp 12379-12380", "tcp 8100-8132", "udp 6343", "udp 6345-6355", "tcp 2480")])
        self.assertLess(calls.index("port -d -p tcp 2480"), calls.index("semodule -n -X 200 -r skydive"))


class Policy(lab.Case):
    """The module in a real policy, Debian's. What EL and Fedora have besides stands in optional blocks."""
    SHORT = False  # builds a whole policy, which takes minutes
    HOSTS = {"h1": "bookworm-selinux"}

    def test_the_policy_takes_the_module_and_gives_it_back(self):
        self.h1.copy(package(NEW, "skydive-selinux", "rpm"), "/srv/skydive-selinux.rpm")
        self.assertNotIn("skydive-selinux:", self.h1.run("rpm -i --nodeps /srv/skydive-selinux.rpm", timeout=580).stderr)
        policy = self.h1.output("ls /etc/selinux/default/policy/policy.*")
        self.assertIn("allow skydive_t nsfs_t:file", self.h1.output("sesearch", "-A", "-s", "skydive_t", "-t", "nsfs_t", policy))
        self.assertIn("nnp_transition", self.h1.output("sesearch", "-A", "-s", "init_t", "-t", "skydive_t", "-c", "process2", policy))
        self.assertIn("type_transition init_t skydive_exec_t:process skydive_t;", self.h1.output("sesearch", "-T", "-s", "init_t", "-t", "skydive_exec_t", policy))
        ports = self.h1.output("semanage", "port", "-l", "-C", timeout=300)
        for line in ("skydive_etcd_ports_t +tcp +12379-12380", "skydive_agent_sflow_ports_t +udp +6343, 6345-6355",
                     "skydive_agent_pcapsocket_ports_t +tcp +8100-8132"):
            self.assertRegex(ports, line)
        self.assertIn("skydive_exec_t", self.h1.output("matchpathcon", "/usr/bin/skydive"))
        self.h1.run("rpm -e skydive-selinux", timeout=580)
        self.assertNotIn("skydive", self.h1.output("semodule -l"))
        self.assertNotIn("skydive", self.h1.output("semanage", "port", "-l", "-C", timeout=300))


del Installed  # a base, no test of its own

if __name__ == "__main__":
    unittest.main()
