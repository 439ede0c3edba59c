"""A node for the tests: what a kubelet would make of a pod, by docker run.

The node is a container that only holds a network and a process namespace; host network and host processes are its own. Its /run is a
directory of the machine, with mounts that propagate as under systemd.
"""

import base64
import json
import os
import pathlib
import re
import sys

from cluster import Failed, run, wait

# What an engine need not know to run a pod: by the name of the field.
ALLOWED = {
    "container": {"name", "image", "imagePullPolicy", "args", "ports", "envFrom", "env", "startupProbe", "livenessProbe", "readinessProbe",
                  "resources", "securityContext", "volumeMounts", "terminationMessagePath", "terminationMessagePolicy"},
    "security": {"runAsUser", "runAsGroup", "runAsNonRoot", "allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities", "seccompProfile",
                 "appArmorProfile", "seLinuxOptions", "fsGroup", "fsGroupChangePolicy"},
}


class Waiting(Exception):
    """Why a kubelet would not start a container yet."""


class Node:
    def __init__(self, lab, docker, cluster, name, image, hosts=()):
        self.lab, self.docker, self.cluster, self.name, self.image = lab, docker, cluster, name, image
        self.container = "%s-%s" % (lab.prefix, name)
        self.run = pathlib.Path(lab.work) / ("run-" + name)
        self.run.mkdir()
        run(["mount", "--bind", self.run, self.run])
        lab.cleanup.callback(run, ["umount", "-R", "-l", self.run], check=False)
        run(["mount", "--make-shared", self.run])
        self.start(self.container, "--network", lab.prefix, "--hostname", name, *["--add-host=" + host for host in hosts],
                   "-v", "%s:/kube:ro" % cluster.program, "--entrypoint", "/kube", image, "pause")
        self.address = self.inspect(self.container, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")

    def start(self, name, *argv):
        self.lab.cleanup.callback(self.docker, "rm", "-fv", name, check=False)
        self.docker("run", "-d", "--name", name, "--label", "skydive-tests", *argv)

    def inspect(self, container, what):
        return self.docker("inspect", "-f", what, container).stdout.strip()

    def namespace(self, name):
        """A network namespace with a name, as ip netns add makes one."""
        path = self.run / "netns" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        run(["unshare", "--net=%s" % path, "true"])

    def environment(self, pod, container):
        """The variables of a container, in order, as the kubelet makes them."""
        namespace, values = pod["metadata"]["namespace"], {}
        for source in container.get("envFrom", []):
            values.update(self.cluster.get("configmap", source["configMapRef"]["name"], "-n", namespace)["data"])
        for variable in container.get("env", []):
            value, source = variable.get("value", ""), variable.get("valueFrom", {})
            if "secretKeyRef" in source:
                reference = source["secretKeyRef"]
                data = self.cluster.get("secret", reference["name"], "-n", namespace).get("data", {})
                if reference["key"] not in data:
                    raise Waiting("couldn't find key %(key)s in Secret %(name)s" % reference)
                value = base64.b64decode(data[reference["key"]]).decode()
            elif "fieldRef" in source:
                if source["fieldRef"]["fieldPath"] != "spec.nodeName":
                    raise Failed("unknown field %s" % source)
                value = self.name
            values[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: values.get(match[1], match[0]), value)
        return values

    def argv(self, pod, container):
        """Arguments of docker run."""
        spec, security = pod["spec"], {**pod["spec"].get("securityContext", {}), **container.get("securityContext", {})}
        for kind, fields in (("container", container), ("security", security)):
            if set(fields) - ALLOWED[kind]:
                raise Failed("not known to the tests: %s" % (set(fields) - ALLOWED[kind]))
        if security.get("runAsNonRoot") and not security.get("runAsUser"):
            raise Failed("runAsNonRoot without a user that says so")
        argv = ["--user", "%d:%d" % (security["runAsUser"], security.get("runAsGroup", 0))]
        if "fsGroup" in security:
            argv += ["--group-add", str(security["fsGroup"])]
        if security.get("readOnlyRootFilesystem"):
            argv += ["--read-only"]
        if not security.get("allowPrivilegeEscalation", True):
            argv += ["--security-opt", "no-new-privileges"]
        if security.get("appArmorProfile", {}).get("type") == "Unconfined":
            argv += ["--security-opt", "apparmor=unconfined"]
        if "seLinuxOptions" in security:
            argv += ["--security-opt", "label=type:" + security["seLinuxOptions"]["type"]]
        if security["seccompProfile"] != {"type": "RuntimeDefault"}:  # which is docker's default, too
            raise Failed("not known to the tests: %s" % security["seccompProfile"])
        for capability in security["capabilities"]["drop"]:
            argv += ["--cap-drop", capability]
        for capability in security["capabilities"].get("add", []):
            argv += ["--cap-add", capability]
        argv += ["--memory", re.sub("i$", "", container["resources"]["limits"]["memory"]).lower()]
        if spec.get("hostNetwork"):
            argv += ["--network", "container:" + self.container]
        if spec.get("hostPID"):
            argv += ["--pid", "container:" + self.container]
        for name, value in self.environment(pod, container).items():
            argv += ["-e", "%s=%s" % (name, value)]
        for mount in container.get("volumeMounts", []):
            options = {"HostToContainer": "rslave", "None": "rprivate"}[mount.get("mountPropagation", "None")]
            options += ",ro" if mount.get("readOnly") else ""
            argv += ["-v", "%s:%s:%s" % (self.volume(pod, mount["name"], security), mount["mountPath"], options)]
        return argv

    def volume(self, pod, name, security):
        """The directory of the machine that stands for a volume."""
        volume = next(v for v in pod["spec"]["volumes"] if v["name"] == name)
        path = pathlib.Path(self.lab.work) / pod["metadata"]["uid"] / name
        if "hostPath" in volume:
            if volume["hostPath"] != {"path": "/run", "type": "Directory"}:
                raise Failed("a node of the tests has /run only: %s" % volume["hostPath"])
            return self.run
        path.mkdir(parents=True, exist_ok=True)
        if "emptyDir" in volume:
            path.chmod(0o2777)
            os.chown(path, 0, security.get("fsGroup", 0))
        elif "projected" in volume:  # the token of the service account
            token = self.cluster.kubectl("create", "token", pod["spec"]["serviceAccountName"], "-n", pod["metadata"]["namespace"]).stdout.strip()
            for file, text in (("token", token), ("namespace", pod["metadata"]["namespace"]), ("ca.crt", self.cluster.authority.read_text())):
                (path / file).write_text(text)
                (path / file).chmod(0o640)
                os.chown(path / file, 0, security["fsGroup"])
        else:
            raise Failed("not known to the tests: %s" % volume)
        return path

    def init(self, pod, container):
        """Run an init container to its end: exit code and output. The API server is where the machine has it."""
        name = "%s-%s" % (self.container, container["name"])
        done = self.docker("run", "--rm", "--name", name, "--label", "skydive-tests", "--network", "host", "-e", "KUBERNETES_SERVICE_HOST=127.0.0.1",
                           "-e", "KUBERNETES_SERVICE_PORT=%d" % self.cluster.port, *self.argv(pod, container), self.image, *container["args"], check=False)
        return done.returncode, done.stdout + done.stderr

    def pod(self, pod, *argv):
        """Start the one container of a pod; argv is for docker."""
        (container,) = pod["spec"]["containers"]
        pod["container"] = "%s-%s" % (self.container, container["name"])
        self.start(pod["container"], *argv, *self.argv(pod, container), self.image, *container["args"])
        return pod

    def ask(self, pod, probe, path=None):
        """The status of one probe, asked from inside the pod's network; 0 when nobody answers."""
        (container,) = pod["spec"]["containers"]
        want = container[probe + "Probe"]["httpGet"]
        port = next(p["containerPort"] for p in container["ports"] if p["name"] == want["port"])
        address = want.get("host") or self.inspect(pod["container"], "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
        return self.http(pod, "http://%s:%d%s" % (address, port, path or want["path"]))[0]

    def http(self, pod, url, body=None, **headers):
        """(status, text) of an HTTP request from inside the pod's network."""
        script = "import json, sys, urllib.request, urllib.error\nurl, body, headers = json.load(sys.stdin)\n" \
                 "try: a = urllib.request.urlopen(urllib.request.Request(url, body and body.encode(), headers), timeout=5)\n" \
                 "except urllib.error.HTTPError as e: a = e\n" \
                 "except OSError: print(0); sys.exit()\n" \
                 "print(a.status); print(a.read().decode())"
        inside = ["nsenter", "-n", "-t", self.inspect(pod["container"], "{{.State.Pid}}"), sys.executable, "-c", script]
        done = run(inside, input=json.dumps([url, body, headers]), check=False)
        status, _, text = done.stdout.partition("\n")
        return (int(status), text) if done.returncode == 0 else (0, done.stderr)

    def log(self, pod):
        done = self.docker("logs", pod["container"], check=False)
        return done.stdout + done.stderr

    def wait_for(self, pod, probe, status, seconds=30):
        def answered():
            if self.inspect(pod["container"], "{{.State.Running}}") != "true":
                raise Failed("%s ended:\n%s" % (pod["container"], self.log(pod)[-2000:]))
            return self.ask(pod, probe) == status
        wait(answered, seconds, lambda: "%s of %s answers %d, it is %d\n%s" % (probe, pod["container"], status, self.ask(pod, probe), self.log(pod)[-2000:]))
