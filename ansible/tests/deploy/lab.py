"""The lab of the deployment tests: Debian hosts with a real systemd, as containers on a bridge of their own, and plays over SSH.

    with Lab("upgrade") as lab:
        h1, h2 = lab.hosts(h1="bookworm", h2="bookworm-podman")
        inventory = lab.inventory(analyzers=[h1], agents=[h1, h2], variables={"skydive_auth_type": "basic"})
        before = h2.snapshot()
        play = lab.play("playbook.yml.sample", inventory, {"skydive_analyzer_port": 8090})
        assert lab.play("playbook.yml.sample", inventory).changed == 0
        lab.play("ansible/playbooks/reset.yml", inventory, {"skydive_reset_data": True})
        assert not difference(before, h2.snapshot())

Needs root, Docker and mmdebstrap (python3 lab.py needs installs them). The Docker daemon is the lab's own, without a rule in the
machine's firewall, unless $DOCKER_HOST names one. Images are built once and stay in that daemon's store (~/.cache/skydive-tests).
Names and addresses are unique: several labs run side by side. Everything a lab made goes when it ends.
python3 lab.py up NAME=KIND... boots hosts by hand and keeps them until its standard input ends.
"""

import atexit
import contextlib
import difflib
import fcntl
import functools
import hashlib
import ipaddress
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[3]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "skydive-tests"
PLAYBOOK = "playbook.yml.sample"
RESET = "ansible/playbooks/reset.yml"
VERIFY = "ansible/playbooks/verify.yml"
SERVICES = ("skydive-analyzer", "skydive-agent")

BASE = ["systemd", "systemd-sysv", "dbus", "openssh-server", "python3", "python3-apt", "iproute2", "procps", "sudo", "ca-certificates"]
PODMAN = ["podman", "runc", "uidmap", "netavark", "aardvark-dns"]
# What a host can be: the Debian release and what it has beside the minimum; then files, {path: text}, and a shell command that the
# image is made with. A test may add kinds of its own before it boots one.
KINDS = {
    "bookworm": ("bookworm", []),
    "trixie": ("trixie", []),
    "bookworm-podman": ("bookworm", PODMAN),
    "trixie-podman": ("trixie", PODMAN),
    "bookworm-docker": ("bookworm", ["docker.io"]),
    "trixie-docker": ("trixie", ["docker.io", "docker-cli"]),
    # A hypervisor.
    "bookworm-podman-openvswitch": ("bookworm", [*PODMAN, "openvswitch-switch", "iputils-ping"]),
    # Ansible on the host itself, for inventories that say localhost.
    "bookworm-controller": ("bookworm", [*PODMAN, "ansible-core", "git"]),
}
# A machine may lack capabilities and rlimits that engines ask for by default, and a kernel the controllers that crun wants.
ENGINE_FILES = {
    "/etc/containers/containers.conf": '[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]\n'
                                       '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n',
    "/etc/docker/daemon.json": '{"bridge": "none", "iptables": false, "ip6tables": false, "storage-driver": "overlay2"}\n',
    "/etc/systemd/system/containerd.service.d/test.conf": "[Service]\nOOMScoreAdjust=0\nLimitNOFILE=20000\nLimitNPROC=4096\n",
    "/etc/systemd/system/docker.service.d/test.conf": "[Service]\nOOMScoreAdjust=0\nLimitNOFILE=20000\nLimitNPROC=4096\n",
}
CAPABILITIES = ["SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "SYS_NICE", "SYS_BOOT", "DAC_READ_SEARCH", "LINUX_IMMUTABLE",
                "NET_BROADCAST", "IPC_LOCK", "SYS_TTY_CONFIG", "LEASE", "AUDIT_CONTROL", "AUDIT_READ", "SYSLOG"]

# Everything a deployment may touch, with mode, owner and target, and what the files of /etc hold. What changes by itself is left out.
SNAPSHOT = r"""
find /etc /usr /var /opt /srv /home /root -xdev ! -path '/var/log/*' ! -path '/root/.ansible*' ! -path '/var/cache/*' ! -name '*.pyc' \
    ! -name __pycache__ ! -path /etc ! -path /root ! -name .pwd.lock ! -name '*-' ! -path '/var/tmp/*' ! -path '/var/lib/systemd/*' \
    ! -path '/var/lib/apt/*' ! -path '/var/lib/containerd/*' ! -path '/var/lib/dpkg/*-old' ! -path '/var/lib/dpkg/lock*' -printf '%p %M %u %g %l\n' | sort
find /etc -xdev -type f ! -name '*-' ! -name .pwd.lock ! -name ld.so.cache ! -path '/etc/ssh/*' -exec sha256sum {} + | sort -k 2
cat /etc/passwd /etc/group
ls -d /var/log/skydive /run/skydive* 2>/dev/null
ps -eo args | grep -E '^\S*skydive( |$)'
systemctl list-units --all --plain --no-legend 'skydive*' | cut -d' ' -f1
for engine in podman docker; do
    command -v $engine >/dev/null || continue
    $engine ps -a --format "$engine container {{.Names}}"
    $engine images --format "$engine image {{.Repository}}:{{.Tag}}" | sort
    $engine volume ls --format "$engine volume {{.Name}}"
done
command -v nft >/dev/null && nft -s list ruleset
true
"""


class Failed(AssertionError):
    """A command, a play or a wait that did not do what the test needs, with what is known about it."""


def run(argv, check=True, timeout=300, **options):
    """subprocess.run with text, both streams captured, and an error that tells them."""
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([str(word) for word in argv], text=True, timeout=timeout, capture_output=True, **options)
    if check and done.returncode:
        raise Failed("%s: exit %d\n%s" % (" ".join(map(str, argv))[:400], done.returncode, (done.stdout + done.stderr)[-4000:]))
    return done


def wait(condition, seconds, what):
    """Ask condition() until it answers something true, and return that. After the deadline: Failed, which says what was wanted."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise Failed("after %d s still not: %s" % (seconds, what() if callable(what) else what))
        time.sleep(0.1)


def difference(before, after):
    """What two snapshots do not share, a line each; empty when nothing changed."""
    lines = difflib.unified_diff(before, after, "before", "after", lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith("@@"))


def say(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(name):
    """One process at a time; the lock goes with the process, however that ends."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / (name + ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another test that uses %s" % (CACHE / name))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def needs():
    """Install from the distribution what the lab needs and the machine lacks."""
    subprocess.run([ROOT / ".ci" / "need", "ansible-playbook:ansible-core", "dockerd:docker.io", "docker:docker.io", "mmdebstrap:mmdebstrap",
                    "ssh:openssh-client", "ip:iproute2"], cwd=ROOT, check=True)


class Daemon:
    """The Docker daemon: $DOCKER_HOST, or one of our own for as long as this process lives."""

    def __init__(self):
        self.address = os.environ.get("DOCKER_HOST")
        self.cleanup = contextlib.ExitStack()
        if not self.address:
            self.cleanup.enter_context(locked("docker"))
            self.start()
        atexit.register(self.cleanup.close)

    def start(self):
        pidfile, data = CACHE / "docker.pid", CACHE / "docker"
        with contextlib.suppress(FileNotFoundError, ValueError):  # left by a test that was killed
            pid = int(pidfile.read_text())
            if str(data) in pathlib.Path("/proc/%d/cmdline" % pid).read_text():
                os.kill(pid, signal.SIGTERM)
                wait(lambda: not os.path.exists("/proc/%d" % pid), 30, "the end of the last test's dockerd, process %d" % pid)
        pidfile.unlink(missing_ok=True)
        work = self.cleanup.enter_context(tempfile.TemporaryDirectory(prefix="skydive-docker-"))
        self.address = "unix://%s/docker.sock" % work
        log = open(os.path.join(work, "log"), "w+")
        self.cleanup.callback(log.close)
        process = subprocess.Popen(
            ["dockerd", "--host", self.address, "--data-root", data, "--exec-root", os.path.join(work, "exec"), "--pidfile", pidfile,
             "--log-level", "warn", "--bridge", "none", "--iptables=false", "--ip6tables=false"], stdout=log, stderr=log, start_new_session=True)

        def stop():
            process.terminate()
            process.wait(60)
            for left in pathlib.Path(work, "exec", "netns").glob("*"):  # the host's network, of containers that used it
                run(["umount", left], check=False)
        self.cleanup.callback(stop)

        def ready():
            if process.poll() is not None:
                log.seek(0)
                raise Failed("dockerd ended: " + log.read()[-2000:])
            return run(["docker", "-H", self.address, "info"], check=False).returncode == 0
        wait(ready, 60, "an answer of dockerd")
        left = self("ps", "-aq", "--filter", "label=skydive-tests").stdout.split()
        if left:
            self("rm", "-fv", *left)
        self("network", "prune", "-f", "--filter", "label=skydive-tests")

    def __call__(self, *argv, **options):
        return run(["docker", "-H", self.address, *argv], **options)

    def image(self, kind):
        """The image of a kind of host, built if this daemon does not have it. Another key or other packages make another image."""
        suite, packages, more, command = (*KINDS[kind], {}, "")[:4]
        script = (ROOT / "ansible" / "tests" / "host-image.sh").read_text()
        recipe = hashlib.sha256("\n".join([script, key().with_suffix(".pub").read_text(), suite, *BASE]).encode()).hexdigest()[:8]
        base = "skydive-tests/host:%s-%s" % (suite, recipe)
        self.build(base, lambda: self.bootstrap(base, suite))
        if not packages:
            return base
        files = {path: text for path, text in ENGINE_FILES.items() if ("docker.io" in packages) != ("containers.conf" in path)}
        dockerfile = ("FROM %s\nRUN apt-get update -qq && apt-get install -y -qq --no-install-recommends %s && rm -rf /var/lib/apt/lists/*\n"
                      "COPY etc /etc\n" % (base, " ".join(packages)))
        for top in sorted({path.split("/")[1] for path in more}):
            dockerfile += "COPY more/{0} /{0}\n".format(top)
        dockerfile += "RUN %s\n" % command if command else ""
        files.update({"/more" + path: text for path, text in more.items()})
        recipe = hashlib.sha256(repr((dockerfile, files)).encode()).hexdigest()[:8]
        image = "skydive-tests/host:%s-%s" % (kind, recipe)
        self.build(image, lambda: self.derive(image, {"Dockerfile": dockerfile, **files}))
        return image

    def derive(self, image, files):
        with tempfile.TemporaryDirectory(prefix="skydive-image-") as work:
            for path, text in files.items():
                path = pathlib.Path(work, path.lstrip("/"))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            # The host's network, for the daemon has no other.
            run(["docker", "-H", self.address, "build", "-q", "--network", "host", "-t", image, work], timeout=580,
                env={**os.environ, "DOCKER_BUILDKIT": "0"})

    def build(self, image, builder):
        def there():
            return self("image", "inspect", image, check=False).returncode == 0
        if there():
            return
        with locked("images"):
            if not there():
                begin = time.monotonic()
                builder()
                say("image %s built in %.0f s" % (image, time.monotonic() - begin))

    def bootstrap(self, image, suite):
        with tempfile.TemporaryDirectory(prefix="skydive-image-") as work:
            tar = os.path.join(work, "host.tar")
            run([ROOT / "ansible" / "tests" / "host-image.sh", tar, key().with_suffix(".pub"), suite, ",".join(BASE)], timeout=580)
            self("import", "-c", 'CMD ["/lib/systemd/systemd"]', "-c", "ENV container=docker", tar, image)


@functools.lru_cache(maxsize=None)
def daemon():
    return Daemon()


@functools.lru_cache(maxsize=None)
def key():
    path = CACHE / "id_ed25519"
    with locked("key"):
        if not path.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "skydive-tests", "-f", path])
    return path


@functools.lru_cache(maxsize=None)
def newest_ansible():
    """ansible-playbook of the newest ansible-core that this machine's Python runs, in a virtual environment of the cache."""
    venv = CACHE / "ansible-newest"
    with locked("ansible-newest"):
        if not (venv / "complete").exists():
            shutil.rmtree(venv, ignore_errors=True)
            run(["/usr/bin/python3", "-m", "venv", venv])
            # Passlib 1.7 does not know the newest bcrypt.
            run([venv / "bin" / "pip", "install", "-q", "ansible-core", "passlib", "bcrypt<4.1"], timeout=580)
            (venv / "complete").touch()
    return str(venv / "bin" / "ansible-playbook")


@functools.lru_cache(maxsize=None)
def ansible_version(program):
    return re.search(r"core (\S+?)\]", run([program, "--version"]).stdout).group(1)


class Play:
    """What a playbook did: code, output, seconds, recap {host: {"ok": 3, …}}, changed (all hosts), tasks that changed something."""

    def __init__(self, code, output, seconds, version):
        self.code, self.output, self.seconds, self.version = code, output, seconds, version
        self.recap = {host: {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", counts)}
                      for host, counts in re.findall(r"(?m)^(\S+)\s+: (ok=.*)$", output.partition("PLAY RECAP")[2])}
        self.changed = sum(counts.get("changed", 0) for counts in self.recap.values())
        self.tasks = []
        task = ""
        for line in output.splitlines():
            if found := re.match(r"(?:TASK|RUNNING HANDLER) \[(.*)\] \**$", line):
                task = found.group(1)
            elif found := re.match(r"changed: \[([^\]\s]+)", line):
                self.tasks.append("%s: %s" % (found.group(1), task))

    def end(self, length=6000):
        """The end of the output, without the lines that tell nothing."""
        lines = [line[:600] for line in self.output.splitlines() if line.strip() and not line.startswith(("skipping:", "ok:", "included:"))]
        return "\n".join(lines)[-length:]


class Host:
    """A booted host. name is that of the inventory; address, on the lab's bridge; container, its name at the daemon."""

    def __init__(self, lab, name, kind, address, mounts=()):
        self.lab, self.name, self.kind, self.address = lab, name, kind, address
        self.container = "%s-%s" % (lab.prefix, name)
        volumes = [word for path in ("/var/lib/containers", "/var/lib/docker") for word in ("-v", path)]  # overlay does not nest
        devices = [word for path in ("/dev/fuse", "/dev/net/tun") if os.path.exists(path) for word in ("--device", path)]
        daemon()("run", "-d", "--name", self.container, "--hostname", name, "--label", "skydive-tests", "--network", lab.prefix, "--ip", address,
                 "--stop-signal", "SIGRTMIN+3", *["--cap-add=" + name for name in CAPABILITIES], "--security-opt", "seccomp=unconfined",
                 "--security-opt", "systempaths=unconfined", "--cgroupns=private", "--device-cgroup-rule", "a *:* rwm", *devices, *volumes,
                 *[word for mount in mounts for word in ("-v", mount)],
                 "--tmpfs", "/run:exec", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec", daemon().image(kind))
        # Containers inside the host want cgroups of their own; and systemd shares the mounts of a machine that it boots itself.
        self.run("awk '$3 == \"cgroup\" { print $2 }' /proc/mounts | while read -r m; do mount -o remount,bind,rw $m; done; mount --make-rshared /")

    def booted(self):
        return self.run("systemctl is-system-running", check=False).stdout.strip() in ("running", "degraded")

    def run(self, *command, check=True, timeout=120, **options):
        """Run words, or one line of shell, on the host as root. Returns stdout, stderr, returncode; check: Failed unless that is 0."""
        words = ["sh", "-c", command[0]] if len(command) == 1 else command
        environ = [word for name, value in options.pop("env", {}).items() for word in ("-e", "%s=%s" % (name, value))]
        return daemon()("exec", "-i", *environ, self.container, *words, check=check, timeout=timeout, **options)

    def start(self, *command):
        """Start a command that goes on in the background of the host."""
        words = ["sh", "-c", command[0]] if len(command) == 1 else command
        daemon()("exec", "-d", self.container, *words)

    def output(self, *command, **options):
        return self.run(*command, **options).stdout.strip()

    def succeeds(self, *command, **options):
        return self.run(*command, check=False, **options).returncode == 0

    def exists(self, path):
        return self.succeeds("test", "-e", path)

    def write(self, path, text, mode="0644"):
        self.run("install -D -m %s /dev/stdin %s" % (mode, path), input=text)

    def copy(self, source, path):
        """A file or directory of this machine onto the host. Not docker cp, which does not see what is mounted there (/tmp, /run)."""
        source = pathlib.Path(source).resolve()
        with subprocess.Popen(["tar", "-C", source.parent, "-cf", "-", source.name], stdout=subprocess.PIPE) as tar:
            run(["docker", "-H", daemon().address, "exec", "-i", self.container, "sh", "-c",
                 "mkdir -p $(dirname {0}) && mkdir {0}.part && tar -C {0}.part -xf - && mv -T {0}.part/{1} {0} && rmdir {0}.part".format(path, source.name)],
                stdin=tar.stdout)

    def stat(self, path):
        """Mode and owners, as in "750 root:skydive"."""
        return self.output("stat", "-c", "%a %U:%G", path)

    def pid(self, service):
        """Main process of a systemd service; 0 when it does not run."""
        return int(self.output("systemctl", "show", "-P", "MainPID", service) or 0)

    def started(self, *services):
        """{service: when systemd started it, to the microsecond}: equal before and after means not restarted, in every mode."""
        return {name: self.output("systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", name) for name in services}

    def listens(self, port):
        return self.succeeds("ss -Hltn 'sport = :%d' | grep -q ." % port)

    def http(self, url, user="", password="", body=None, timeout=10):
        """Ask a service from the host, with Python alone: the JSON it answers. Failed tells the status."""
        script = """
import base64, json, ssl, sys, urllib.error, urllib.request
url, user, password, body, timeout = json.load(sys.stdin)
request = urllib.request.Request(url, body and json.dumps(body).encode(), {'Accept': 'application/json'})
if user:
    request.add_header('Authorization', 'Basic ' + base64.b64encode(('%s:%s' % (user, password)).encode()).decode())
try:
    tls = None
    if url.startswith('https:'):
        tls = ssl.create_default_context(cafile='/etc/skydive/tls/ca.crt')
        tls.load_cert_chain('/etc/skydive/tls/client.crt', '/etc/skydive/tls/client.key')
    sys.stdout.write(urllib.request.urlopen(request, timeout=timeout, context=tls).read().decode())
except urllib.error.HTTPError as error:
    sys.exit('%s: %s %s' % (url, error, error.read().decode()))
except OSError as error:
    sys.exit('%s: %s' % (url, error))
"""
        return json.loads(self.output("python3", "-c", script, input=json.dumps([url, user, password, body, timeout])) or "null")

    def snapshot(self):
        return self.output(SNAPSHOT).splitlines()

    def journal(self, *units, lines=40):
        wanted = [word for unit in units or ("skydive-analyzer", "skydive-agent") for word in ("-u", unit)]
        return self.output("journalctl", "--no-pager", "-n", str(lines), *wanted, check=False)

    def play(self, playbook=PLAYBOOK, inventory="inventory/hosts.localhost", variables=None, checkout="/skydive", fails=False, environ=None, **options):
        """Run a playbook on the host itself (kind …-controller, checkout mounted), as lab.play does on this machine."""
        argv, version = arguments("ansible-playbook", playbook, inventory, variables, **options), self.output("ansible-playbook --version")
        environ = {"ANSIBLE_NOCOLOR": "1", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8", **(environ or {})}
        begin = time.monotonic()
        done = self.run("env", "-C", checkout, *argv, check=False, timeout=580, env=environ)
        play = Play(done.returncode, done.stdout + done.stderr, time.monotonic() - begin, re.search(r"core (\S+?)\]", version).group(1))
        return self.lab.judged(play, fails, argv)


def arguments(program, playbook, inventory, variables, check=False, diff=False, tags=(), limit=None, verbose=0, extra=()):
    argv = [program, "-i", str(inventory), str(playbook)]
    if variables:
        argv += ["-e", json.dumps(variables)]
    argv += ["--check"] * check + ["--diff"] * diff + ["-" + "v" * verbose] * bool(verbose)
    argv += ["--tags", ",".join(tags)] * bool(tags) + ["--limit", limit or ""] * bool(limit)
    return argv + list(extra)


class Lab:
    """Hosts on one bridge. A context manager: at its end hosts, network and files are gone."""

    def __init__(self, name="lab"):
        self.prefix = "%s-%s" % (name, uuid.uuid4().hex[:6])
        self.named = {}
        self.plays = []
        self.cleanup = contextlib.ExitStack()
        atexit.register(self.close)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # an exit that cleans up, and that unittest does not catch
        self.work = pathlib.Path(self.cleanup.enter_context(tempfile.TemporaryDirectory(prefix="skydive-lab-")))
        try:
            self.network = self.create_network()
        except BaseException:
            self.cleanup.close()
            raise

    def create_network(self):
        """A /24 that neither this machine nor another lab uses, one of $SUBNET (10.77.3.0/24 10.77.4.0/24) if that is set."""
        subnets = os.environ.get("SUBNET", "").split() or ["10.77.%d.0/24" % number for number in range(100, 200)]
        used = [ipaddress.ip_network(word, strict=False) for word in re.findall(r"\d+\.\d+\.\d+\.\d+/\d+", run(["ip", "-4", "route"]).stdout)]
        for subnet in map(ipaddress.ip_network, subnets):
            if any(subnet.overlaps(other) for other in used):
                continue
            bridge = "br-" + self.prefix[-6:]
            made = daemon()("network", "create", "--subnet", str(subnet), "--label", "skydive-tests", "-o",
                            "com.docker.network.bridge.name=" + bridge, self.prefix, check=False)
            if made.returncode == 0:
                self.cleanup.callback(lambda: daemon()("network", "rm", self.prefix, check=False))
                return subnet
            if "overlap" not in made.stderr:
                raise Failed(made.stderr)
        raise Failed("no free network among %s" % ", ".join(map(str, subnets)))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind not in (None, unittest.SkipTest):
            self.report()
        self.close()

    def close(self):
        self.cleanup.close()

    def host(self, name, kind="bookworm", mounts=(), wait_for=True):
        """Boot one host; mounts are Docker's -v. Returns when it has booted."""
        address = str(self.network[11 + len(self.named)])
        self.cleanup.callback(lambda: daemon()("rm", "-fv", "%s-%s" % (self.prefix, name), check=False))
        host = self.named[name] = Host(self, name, kind, address, mounts)
        if wait_for:
            wait(host.booted, 90, "boot of " + name)
        return host

    def hosts(self, **kinds):
        """Boot several at once: hosts(h1="bookworm", h2="trixie"), in that order."""
        hosts = [self.host(name, kind, wait_for=False) for name, kind in kinds.items()]
        for host in hosts:
            wait(host.booted, 90, "boot of " + host.name)
        return hosts

    def connection(self):
        return {"ansible_user": "root", "ansible_ssh_private_key_file": str(key()), "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"}

    def inventory(self, analyzers=(), agents=(), variables=None, host_variables=None, name="hosts.json"):
        """Write an inventory and return its path. variables are everybody's; host_variables, {"h1": {…}}."""
        def group(hosts):
            return {"hosts": {host.name: {"ansible_host": host.address, **(host_variables or {}).get(host.name, {})} for host in hosts}}
        path = self.work / name
        path.write_text(json.dumps({"all": {"vars": {**self.connection(), **(variables or {})}, "children": {
            "analyzers": group(analyzers), "agents": group(agents)}}}, indent=2))
        return path

    def sample(self, name, hosts):
        """A copy of inventory/NAME with addresses replaced: hosts is {what stands there: Host}. Nothing else of it changes."""
        text = (ROOT / "inventory" / name).read_text()
        for there, host in hosts.items():
            text = re.sub(r"(?m)(?<![\w.])%s(?![\w.])" % re.escape(there), host.address, text)
        directory = pathlib.Path(tempfile.mkdtemp(prefix="sample-", dir=self.work))
        (directory / name).write_text(text)
        (directory / "group_vars").mkdir()
        (directory / "group_vars" / "all.yml").write_text(json.dumps(self.connection()))
        return directory / name

    def ansible(self, program=None):
        """$ANSIBLE_PLAYBOOK, else the machine's; "newest", or a host whose Python the machine's does not know: newest_ansible()."""
        program = program or os.environ.get("ANSIBLE_PLAYBOOK")
        if program == "newest" or not program and any(host.kind.startswith("trixie") for host in self.named.values()):
            return newest_ansible()
        return program or "ansible-playbook"

    def play(self, playbook, inventory, variables=None, fails=False, ansible=None, environ=None, **options):
        """Run a playbook of the checkout and return what it did.

        variables go in as -e JSON. fails=True: it must fail, and Failed is raised if it does not; else the other way round.
        options: check, diff, tags, limit, verbose, extra (further arguments).
        """
        program = self.ansible(ansible)
        argv = arguments(program, playbook, inventory, variables, **options)
        # Nothing of this machine's user, and no SSH connection that outlives the lab.
        environ = {**os.environ, "ANSIBLE_NOCOLOR": "1", "PYTHONDONTWRITEBYTECODE": "1", "ANSIBLE_HOME": str(self.work / "ansible"),
                   "ANSIBLE_LOCAL_TEMP": str(self.work / "ansible" / "tmp"), "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.work / "cp"),
                   "ANSIBLE_HOST_PATTERN_MISMATCH": "ignore", "LC_ALL": "C.UTF-8", **(environ or {})}
        begin = time.monotonic()
        done = run(argv, check=False, timeout=580, cwd=ROOT, env=environ)
        return self.judged(Play(done.returncode, done.stdout + done.stderr, time.monotonic() - begin, ansible_version(program)), fails, argv)

    def judged(self, play, fails, argv):
        self.plays.append(play)
        if bool(play.code) != fails:
            raise Failed("%s: exit %d\n%s" % (" ".join(map(str, argv)), play.code, play.end()))
        return play

    def report(self):
        """Print what helps to understand a failure: the last play, and what the hosts logged."""
        if self.plays:
            say("--- last play\n" + self.plays[-1].end())
        for host in self.named.values():
            with contextlib.suppress(Exception):
                journal = host.journal()
                if "-- No entries --" not in journal:
                    say("--- journal of %s\n%s" % (host.name, "\n".join(line[:400] for line in journal.splitlines())))


class Case(unittest.TestCase):
    """Tests that share the hosts of their class: HOSTS, {name: kind}, are there as self.h1 …, self.lab is the lab.

    The tests of a class run in the order of their names (test_1_…). When one fails, what the hosts logged is printed.
    """

    HOSTS = {"h1": "bookworm"}
    lab = None
    reported = False

    @classmethod
    def setUpClass(cls):
        cls.lab = Lab(cls.__name__.lower())
        cls.addClassCleanup(cls.lab.close)
        for host in cls.lab.hosts(**cls.HOSTS):
            setattr(cls, host.name, host)

    def run(self, result=None):
        result = result or self.defaultTestResult()
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before and self.lab and not self.reported:
            self.lab.report()
        return result

    def assertUntouched(self, before, hosts=None):
        """before is {host: snapshot}."""
        for host in hosts or before:
            changes = difference(before[host], host.snapshot())
            self.assertEqual(changes, "", "%s is not as it was" % host.name)

    def assertUnchanged(self, play):
        self.assertEqual((play.changed, play.tasks), (0, []), play.end(2000))


def main(words):
    if words[:1] == ["needs"]:
        return needs()
    if words[:1] != ["up"] or len(words) < 2 or not all("=" in word for word in words[1:]):
        sys.exit("usage: lab.py needs | lab.py up NAME=KIND...   kinds: " + " ".join(KINDS))
    with Lab("hand") as lab:
        hosts = lab.hosts(**dict(word.split("=", 1) for word in words[1:]))
        for host in hosts:
            print("docker -H %s exec -it %s bash   # %s %s" % (daemon().address, host.container, host.kind, host.address))
        print("ansible-playbook -i %s %s" % (lab.inventory(hosts[:1], hosts), PLAYBOOK), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
