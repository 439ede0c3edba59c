"""A Kubernetes for the tests: the real API server, controllers and kubectl, without nodes; Skydive's own etcd holds its objects.

    with Cluster() as cluster:
        cluster.kubectl("create", "-f", "skydive.yaml")

Kubernetes is built once, from the modules of kube/, and kept in ~/.cache/skydive-tests/kube. Everything listens on free ports of
127.0.0.1, and ends with the cluster.
"""

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "ansible" / "tests" / "deploy"))

from lab import CACHE, Failed, ROOT, locked, run, say, wait  # noqa: E402

SKYDIVE = pathlib.Path(os.environ.get("SKYDIVE_BINARY") or ROOT / "build" / "skydive")


def kube():
    """The program of kube/, built if the cache does not hold it."""
    sources = b"".join((HERE / "kube" / name).read_bytes() for name in ("main.go", "go.mod", "go.sum"))
    program = CACHE / "kube" / ("kube-" + hashlib.sha256(sources).hexdigest()[:12])
    with locked("kube"):
        if not program.exists():
            version = re.search(rb"k8s.io/kubernetes (v\S+)", sources).group(1).decode()
            say("building Kubernetes %s for the tests: about 7 minutes of one CPU, once" % version)
            begin, partial = time.monotonic(), program.with_suffix(".part")
            program.parent.mkdir(parents=True, exist_ok=True)
            environ = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
            with subprocess.Popen([os.environ.get("GO") or shutil.which("go") or "/usr/local/go/bin/go", "build", "-trimpath", "-ldflags", "-s -w",
                                   "-o", partial, "."], cwd=HERE / "kube", env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as go:
                output = go.stdout.read()
            if go.returncode:
                raise Failed("go build: exit %d\n%s" % (go.returncode, output[-3000:]))
            partial.rename(program)
            for old in program.parent.glob("kube-*"):
                if old != program:
                    old.unlink()
            say("built in %d s" % (time.monotonic() - begin))
    return program


class Cluster:
    def __init__(self):
        self.cleanup = contextlib.ExitStack()
        self.work = pathlib.Path(self.cleanup.enter_context(tempfile.TemporaryDirectory(prefix="skydive-kube-")))
        self.program = kube()
        try:
            self.start()
        except BaseException:
            self.report()
            self.cleanup.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.cleanup.close()

    def start(self):
        ports = self.ports(5)
        self.port, self.token = ports[3], base64.b16encode(os.urandom(16)).decode()
        etcd = "127.0.0.1:%d" % ports[0]  # and the next port
        self.process("etcd", SKYDIVE, "analyzer", SKYDIVE_ETCD_LISTEN=etcd, SKYDIVE_ETCD_DATA_DIR=str(self.work / "etcd"),
                     SKYDIVE_ANALYZER_LISTEN="127.0.0.1:%d" % ports[2])
        wait(lambda: self.listens(ports[0]), 30, "etcd at " + etcd)
        key, tokens, certificates = self.work / "key", self.work / "tokens", self.work / "certificates"
        run(["openssl", "genrsa", "-out", key, "2048"])
        tokens.write_text("%s,admin,admin,system:masters\n" % self.token)
        self.process(
            "apiserver", self.program, "kube-apiserver", "--etcd-servers=http://" + etcd, "--bind-address=127.0.0.1", "--secure-port=%d" % self.port,
            "--cert-dir=%s" % certificates, "--token-auth-file=%s" % tokens, "--authorization-mode=RBAC", "--allow-privileged=true",
            "--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=%s" % key,
            "--service-account-signing-key-file=%s" % key, "--service-cluster-ip-range=10.99.0.0/24", "--endpoint-reconciler-type=none")
        self.authority = certificates / "apiserver.crt"
        wait(self.ready, 60, "a ready API server")
        self.config = self.work / "kubeconfig"
        self.config.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": "https://127.0.0.1:%d" % self.port, "certificate-authority": str(self.authority)}}],
            "users": [{"name": "test", "user": {"token": self.token}}], "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}]}))
        self.process("controllers", self.program, "kube-controller-manager", "--kubeconfig=%s" % self.config, "--leader-elect=false",
                     "--bind-address=127.0.0.1", "--secure-port=%d" % ports[4], "--cert-dir=%s" % (self.work / "certificates-of-controllers"),
                     "--service-account-private-key-file=%s" % key, "--root-ca-file=%s" % self.authority,
                     "--concurrent-gc-syncs=4", "--node-monitor-grace-period=1h")  # there is no kubelet
        wait(lambda: self.kubectl("get", "serviceaccount", "default", check=False).returncode == 0, 60, "a service account from the controllers")

    def process(self, name, *argv, **environ):
        log = self.cleanup.enter_context(open(self.work / (name + ".log"), "w"))
        process = subprocess.Popen(list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                   env={**{k: v for k, v in os.environ.items() if not k.startswith("SKYDIVE_")}, **environ})

        def stop():
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.cleanup.callback(stop)

    def report(self):
        for log in sorted(self.work.glob("*.log")):
            say("--- end of %s\n%s" % (log.name, "\n".join(line[:300] for line in log.read_text(errors="replace").splitlines()[-15:])))

    @staticmethod
    def ports(count):
        """That many free ports in a row."""
        for base in range(20000, 32000, count):
            with contextlib.ExitStack() as held, contextlib.suppress(OSError):
                for port in range(base, base + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                return list(range(base, base + count))
        raise Failed("no %d free ports in a row" % count)

    @staticmethod
    def listens(port):
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0

    def ready(self):
        with contextlib.suppress(OSError, ssl.SSLError):
            context = ssl.create_default_context(cafile=self.authority)
            request = urllib.request.Request("https://127.0.0.1:%d/readyz" % self.port, headers={"Authorization": "Bearer " + self.token})
            with urllib.request.urlopen(request, context=context, timeout=5) as answer:
                return answer.status == 200

    def kubectl(self, *argv, **options):
        """A warning of the server is an error."""
        environ = {**os.environ, "HOME": str(self.work), "KUBECONFIG": str(self.config)}
        return run([self.program, "kubectl", "--warnings-as-errors", *argv], env=environ, cwd=ROOT, **options)

    def get(self, *argv):
        return json.loads(self.kubectl("get", "-o", "json", *argv).stdout)

    def put(self, obj, *argv):
        """Create an object, or with arguments whatever they say."""
        return self.kubectl(*(argv or ["create"]), "-f", "-", input=json.dumps(obj))

    def may(self, account, verb, resource, namespace="default", *argv):
        """Whether a service account may do something."""
        done = self.kubectl("auth", "can-i", verb, resource, "-n", namespace, "--as", account, *argv, check=False)
        if done.stdout.strip() not in ("yes", "no"):
            raise Failed("can-i %s %s: %s" % (verb, resource, done.stdout + done.stderr))
        return done.stdout.strip() == "yes"
