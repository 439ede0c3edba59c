"""skydive.yaml and the overlays, given to a real API server; and its pods, run by docker as a kubelet would."""

import base64
import json
import os
import re
import shutil
import sys
import tempfile
import unittest

import yaml

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from cluster import Cluster, ROOT, SKYDIVE, run, wait  # noqa: E402
from node import Node, Waiting  # noqa: E402
import lab as labs  # noqa: E402

FILE = ROOT / "containers" / "kubernetes" / "skydive.yaml"
OVERLAYS = sorted(path.parent for path in (ROOT / "containers" / "kustomize").glob("*/kustomization.yaml"))
IMAGES = ROOT / "build" / "images"
KINDS = "all,endpoints,endpointslices,configmaps,secrets,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings," \
        "persistentvolumeclaims,controllerrevisions,networkpolicies,poddisruptionbudgets"
cluster = None


def setUpModule():
    global cluster
    cluster = Cluster()
    unittest.addModuleCleanup(cluster.cleanup.close)
    for name, taints in (("worker", []), ("control-plane", [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"},
                                                             {"key": "example.org/reserved", "effect": "NoExecute"}])):
        cluster.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}}, "spec": {"taints": taints}})


def documents():
    for document in yaml.safe_load_all(FILE.read_text()):
        yield from document["items"] if document["kind"] == "List" else [document]


def template(kind):
    return next(d for d in documents() if d["kind"] == kind)["spec"]["template"]


def objects():
    """Everything there is of Skydive: {name: object}."""
    return {"%s/%s" % (o["kind"], o["metadata"]["name"]): o for o in cluster.get(KINDS, "-A")["items"] if "skydive" in json.dumps(o["metadata"])}


def pods(tier, count, namespace="default"):
    def found():
        items = cluster.get("pods", "-n", namespace, "-l", "app=skydive,tier=" + tier)["items"]
        return len(items) == count and items
    return wait(found, 30, "%d pods of %s" % (count, tier))


class Deployed(unittest.TestCase):
    """A test that begins and ends with nothing of Skydive in the cluster."""

    def create(self, *argv):
        argv = argv or ("-f", FILE)
        self.addCleanup(self.delete, *argv)
        return cluster.kubectl("create", *argv).stdout

    def delete(self, *argv):
        cluster.kubectl("delete", "--ignore-not-found", *argv)
        for pod in cluster.get("pods")["items"]:
            if "nodeName" in pod["spec"]:  # the part of a kubelet
                cluster.kubectl("delete", "pod", pod["metadata"]["name"], "--ignore-not-found", "--force", "--grace-period=0")
        wait(lambda: not objects(), 30, lambda: "nothing is left: %s" % sorted(objects()))


class File(unittest.TestCase):
    """What can be said without a server."""

    def test_one_image_in_one_place(self):
        ours = [line for line in FILE.read_text().splitlines() if re.search(r"image:.*/skydive:", line)]
        self.assertEqual(len(ours), 1, ours)
        images = [c["image"] for kind in ("Deployment", "DaemonSet") for key in ("initContainers", "containers") for c in template(kind)["spec"].get(key, [])]
        self.assertEqual(len(images), 3)
        self.assertEqual(len(set(images)), 1, images)

    def test_every_variable_is_configuration(self):
        """A misspelt or stale SKYDIVE_… variable would be ignored in silence."""
        for kind, service in (("Deployment", "skydive-analyzer"), ("DaemonSet", "skydive-agent")):
            (container,) = template(kind)["spec"]["containers"]
            values = dict(next(d for d in documents() if d["kind"] == "ConfigMap" and d["metadata"]["name"] == service + "-config")["data"])
            for variable in container["env"]:
                values[variable["name"]] = variable.get("value", "x").replace("$(SKYDIVE_USERNAME)", "u").replace("$(SKYDIVE_PASSWORD)", "p")
            mine = {name for name in values if name.startswith("SKYDIVE_")} - {"SKYDIVE_USERNAME", "SKYDIVE_PASSWORD"}  # the client's
            done = run([SKYDIVE, "-c", "/dev/null", "config", "dump"], env=values)
            taken = set(re.findall(r"environment variable (\w+)", done.stdout))
            self.assertEqual(mine - taken, set(), "no keys of the configuration")
            self.assertNotIn("deprecated", done.stderr)

    def test_every_key_of_the_secret_is_made(self):
        made = template("Deployment")["spec"]["initContainers"][0]["args"][2:]
        self.assertEqual(set(re.findall(r"key: ([\w-]+)\}", FILE.read_text())), set(made))


class Manifest(Deployed):
    def test_dry_run_create_apply_delete(self):
        cases = {"skydive.yaml": ("-f", FILE), **{path.name: ("-k", path) for path in OVERLAYS}}
        self.assertEqual(len(cases), 4)
        for name, argv in cases.items():
            with self.subTest(name):
                if "-f" in argv or name != "namespace-and-ports":  # objects of a namespace that is not there yet cannot be tried
                    cluster.kubectl("create", "--dry-run=server", *argv)
                    cluster.kubectl("apply", "--dry-run=server", *argv)
                self.create(*argv)
                self.delete(*argv)
                cluster.kubectl("apply", *argv)
                pods("agent", 2, "skydive" if name == "namespace-and-ports" else "default")
                self.settle()
                before = self.revisions()
                again = cluster.kubectl("apply", *argv).stdout.split("\n")
                self.assertEqual([line for line in again if line and not line.endswith(" unchanged")], [])
                self.assertEqual(self.revisions(), before)
                self.delete(*argv)

    def settle(self):
        """Until the controllers have written what they had to."""
        def same():
            before = self.revisions()
            run(["sleep", "0.5"])
            return self.revisions() == before
        wait(same, 30, "controllers that come to rest")

    @staticmethod
    def revisions():
        return {name: o["metadata"]["resourceVersion"] for name, o in objects().items()}

    def test_generated_secret_survives_apply(self):
        self.addCleanup(self.delete, "-f", FILE)
        cluster.kubectl("apply", "-f", FILE)
        cluster.kubectl("patch", "secret", "skydive-credentials", "-p", '{"stringData": {"password": "generated"}}')
        cluster.kubectl("apply", "-f", FILE)
        self.assertEqual(cluster.get("secret", "skydive-credentials")["data"], {"password": "Z2VuZXJhdGVk"})

    def test_another_namespace_only_by_overlay(self):
        """RBAC names the namespace: --namespace alone would leave the analyzer without its rights."""
        cluster.kubectl("create", "namespace", "elsewhere")
        self.addCleanup(cluster.kubectl, "delete", "namespace", "elsewhere")
        self.addCleanup(self.delete, "-f", FILE)
        done = cluster.kubectl("create", "--namespace=elsewhere", "-f", FILE, check=False)
        self.assertIn('does not match the namespace "elsewhere"', done.stderr)
        self.assertEqual([name for name in objects() if not name.startswith("ClusterRole")], [])

    def test_ports_of_the_overlay(self):
        self.create("-k", ROOT / "containers" / "kustomize" / "namespace-and-ports")
        ports = cluster.get("service", "skydive-analyzer", "-n", "skydive")["spec"]["ports"]
        self.assertEqual([(p["name"], p["port"], p["protocol"]) for p in ports], [("api", 18082, "TCP"), ("protobuf", 18082, "UDP"), ("es", 19200, "TCP")])
        config = cluster.get("configmap", "skydive-agent-config", "-n", "skydive")["data"]
        (container,) = pods("agent", 2, "skydive")[0]["spec"]["containers"]
        self.assertEqual(config["SKYDIVE_ANALYZERS"], "skydive-analyzer:18082")
        self.assertEqual(config["SKYDIVE_AGENT_LISTEN"], "127.0.0.1:%d" % container["ports"][0]["hostPort"])
        account = "system:serviceaccount:skydive:skydive-analyzer"
        self.assertTrue(cluster.may(account, "list", "pods", "default"))
        self.assertTrue(cluster.may(account, "patch", "secrets/skydive-credentials", "skydive"))
        self.assertFalse(cluster.may(account.replace("skydive:", "default:", 1), "list", "pods", "default"))

    def test_image_by_overlay(self):
        """The one in docs/kubernetes.md."""
        (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "kubernetes.md").read_text(), re.DOTALL)
        with tempfile.TemporaryDirectory() as work:
            os.makedirs(os.path.join(work, "skydive", "containers"))
            shutil.copytree(FILE.parent, os.path.join(work, "skydive", "containers", "kubernetes"))
            with open(os.path.join(work, "kustomization.yaml"), "w") as file:
                file.write(example)
            made = cluster.kubectl("kustomize", work).stdout
            cluster.kubectl("create", "--dry-run=server", "-k", work)
        self.assertEqual(re.findall(r"image: (.*skydive.*)", made), ["registry.example.org/skydive:v1.0"] * 3)

    def test_node_port_shows_the_api_only(self):
        self.create("-k", ROOT / "containers" / "kustomize" / "node-port")
        shown = [(s["metadata"]["name"], p["nodePort"]) for s in cluster.get("services", "-A")["items"] for p in s["spec"]["ports"] if "nodePort" in p]
        self.assertEqual(shown, [("skydive-analyzer-node", 30082)])


class Rights(Deployed):
    READ = {"": "configmaps endpoints namespaces nodes persistentvolumeclaims persistentvolumes pods replicationcontrollers services",
            "apps": "daemonsets deployments replicasets statefulsets", "batch": "cronjobs jobs", "networking.k8s.io": "ingresses networkpolicies",
            "storage.k8s.io": "storageclasses"}

    def rights(self, account, namespace="default"):
        """All of them, as the server says: {(verb, group, resource, name)}; those that every account has are left out."""
        def rules(who):
            review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}}
            answer = cluster.put(review, "create", "-o", "json", "--validate=false", "--as", "system:serviceaccount:default:" + who).stdout
            status = json.loads(answer)["status"]
            self.assertFalse(status["incomplete"])
            return {(verb, group, resource, name) for rule in status["resourceRules"] for verb in rule["verbs"] for group in rule.get("apiGroups", [""])
                    for resource in rule.get("resources", ["*"]) for name in rule.get("resourceNames", ["*"])}
        return rules(account) - rules("default")

    def test_rights(self):
        """These and no others."""
        self.create()
        reads = {(verb, group, resource, "*") for group, resources in self.READ.items() for resource in resources.split() for verb in ("get", "list", "watch")}
        credentials = {(verb, "", "secrets", "skydive-credentials") for verb in ("get", "patch")}
        self.assertEqual(self.rights("skydive-analyzer"), reads | credentials)
        self.assertEqual(self.rights("skydive-analyzer", "kube-system"), reads)
        self.assertEqual(self.rights("skydive-agent"), set())
        analyzer, agent = ("system:serviceaccount:default:skydive-" + name for name in ("analyzer", "agent"))
        for account, verb, resource, allowed in (
                (analyzer, "list", "pods", True), (analyzer, "patch", "secrets/skydive-credentials", True), (analyzer, "list", "secrets", False),
                (analyzer, "get", "secrets/another", False), (analyzer, "create", "pods/exec", False), (analyzer, "delete", "pods", False),
                (agent, "list", "pods", False), (agent, "get", "secrets/skydive-credentials", False), (agent, "get", "nodes", False)):
            self.assertEqual(cluster.may(account, verb, resource), allowed, (account, verb, resource))


class Pods(Deployed):
    def test_one_agent_on_each_node_and_services_of_each_port(self):
        self.create()
        nodes = [re.search(r'"metadata.name".*"values": \["([\w-]+)"\]', json.dumps(pod["spec"]["affinity"]))[1] for pod in pods("agent", 2)]
        self.assertEqual(sorted(nodes), ["control-plane", "worker"])
        addresses = {"analyzer": "10.1.0.1", "elasticsearch": "10.1.0.2", "agent": "10.1.0.3"}
        for tier, address in addresses.items():
            self.serve(pods(tier, 2 if tier == "agent" else 1)[0], address)

        def ports():
            found = set()
            for piece in cluster.get("endpointslices", "-l", "kubernetes.io/service-name=skydive-analyzer")["items"]:
                found |= {(p["name"], p["port"], p["protocol"], a) for p in piece["ports"] or [] for e in piece["endpoints"] or [] for a in e["addresses"]}
            return found
        want = {("api", 8082, "TCP", "10.1.0.1"), ("protobuf", 8082, "UDP", "10.1.0.1"), ("es", 9200, "TCP", "10.1.0.2")}
        wait(lambda: ports() == want, 30, lambda: "%s, it is %s" % (want, ports()))

    def serve(self, pod, address):
        """What scheduler and kubelet would say of a pod that is up."""
        name = pod["metadata"]["name"]
        cluster.put({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"apiVersion": "v1", "kind": "Node", "name": "worker"}},
                    "create", "--raw", "/api/v1/namespaces/default/pods/%s/binding" % name)
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}]}
        cluster.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))

    def test_pod_security(self):
        """Analyzer and Elasticsearch keep to the strictest standard; agents cannot."""
        for level in ("restricted", "privileged"):
            cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": level, "labels": {"pod-security.kubernetes.io/enforce": level}}})
            self.addCleanup(cluster.kubectl, "delete", "namespace", level)
            for kind in ("Deployment", "StatefulSet", "DaemonSet"):
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": level}, "spec": template(kind)["spec"]}
                pod["spec"].pop("serviceAccountName", None)
                wait(lambda: cluster.kubectl("get", "serviceaccount", "default", "-n", level, check=False).returncode == 0, 30, "a service account")
                done = cluster.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(pod), check=False)
                refused = (level, kind) == ("restricted", "DaemonSet")
                self.assertEqual("violates PodSecurity" in done.stderr, refused, (level, kind, done.stderr))
                self.assertEqual(done.returncode != 0, refused, (level, kind, done.stderr))


class Running(Deployed):
    """The pods that the controllers made, as containers."""

    def test_pods_run(self):
        lab = labs.Lab("k8")
        self.addCleanup(lab.close)
        docker = labs.daemon()
        image = re.search(r"Loaded image: (\S+)", docker("load", "-i", IMAGES / "skydive.tar").stdout).group(1)
        self.create("-f", IMAGES / "skydive.yaml")
        (analyzer,) = pods("analyzer", 1)
        agents = dict(zip(("worker", "control-plane"), pods("agent", 2)))
        for pod in (analyzer, *agents.values()):
            self.assertEqual({c["image"] for c in pod["spec"]["containers"] + pod["spec"].get("initContainers", [])}, {image}, "not what make images made")
        credentials = analyzer["spec"]["initContainers"][0]
        address = str(lab.network[5])
        worker = Node(lab, docker, cluster, "worker", image, ["skydive-analyzer:" + address])

        # Nothing starts before there are passwords; who may not make them is told so.
        for pod in (analyzer, agents["worker"]):
            with self.assertRaisesRegex(Waiting, "password"):
                worker.argv(pod, pod["spec"]["containers"][0])
        stranger = {**analyzer, "metadata": {**analyzer["metadata"], "uid": "stranger"}, "spec": {**analyzer["spec"], "serviceAccountName": "skydive-agent"}}
        code, output = worker.init(stranger, credentials)
        self.assertEqual(code, 1, output)
        self.assertIn('secret skydive-credentials of namespace default: 403 Forbidden: secrets "skydive-credentials" is forbidden', output)
        code, output = worker.init(analyzer, credentials)
        self.assertEqual((code, output), (0, "secret skydive-credentials: password, cluster-password, elasticsearch-password added\n"))
        self.assertEqual(worker.init(analyzer, credentials), (0, "secret skydive-credentials: nothing added\n"))
        data = {key: base64.b64decode(value).decode() for key, value in cluster.get("secret", "skydive-credentials")["data"].items()}
        self.assertEqual(sorted(data), ["cluster-password", "elasticsearch-password", "password"])
        self.assertEqual(len({value for value in data.values() if len(value) >= 20}), 3)

        # An agent that waits for its analyzer is alive and not ready.
        worker.pod(agents["worker"])
        worker.wait_for(agents["worker"], "startup", 200)
        self.assertEqual((worker.ask(agents["worker"], "liveness"), worker.ask(agents["worker"], "readiness")), (200, 503))

        worker.pod(analyzer, "--network", lab.prefix, "--ip", address)
        for probe in ("startup", "liveness", "readiness"):
            worker.wait_for(analyzer, probe, 200)
        control = Node(lab, docker, cluster, "control-plane", image, ["skydive-analyzer:" + address])
        control.pod(agents["control-plane"])
        for node in (worker, control):
            node.wait_for(agents[node.name], "readiness", 200)
            self.assertEqual(node.ask(agents[node.name], "liveness"), 200)

        # Nobody without a password; everybody with the one that the documentation shows how to read.
        api = "http://%s:8082" % address
        self.assertEqual(worker.http(analyzer, api + "/api/status")[0], 401)
        self.assertEqual(worker.http(analyzer, api + "/ws/agent/topology")[0], 401)
        basic = base64.b64encode(("skydive:" + data["password"]).encode()).decode()

        def gremlin(query):
            status, text = worker.http(analyzer, api + "/api/topology", json.dumps({"GremlinQuery": query}), Authorization="Basic " + basic)
            self.assertEqual(status, 200, text)
            return json.loads(text)
        wait(lambda: sorted(gremlin("G.V().Has('Type', 'host').Values('Name')")) == ["control-plane", "worker"], 20, "both nodes in the topology")
        client = docker("exec", analyzer["container"], "/usr/bin/skydive", "client", "query", "G.V().Has('Type', 'host').Count()")
        self.assertEqual(client.stdout.strip(), "2")

        # Namespaces that come after the agent, into a /run/netns that was not there.
        worker.namespace("blue")
        wait(lambda: gremlin("G.V().Has('Type', 'host', 'Name', 'worker').Out('Type', 'netns', 'Name', 'blue').Out('Name', 'lo').Count()") == 1, 20,
             lambda: "namespace blue\n" + worker.log(agents["worker"])[-2000:])
        (host,) = gremlin("G.V().Has('Type', 'host', 'Name', 'worker')")
        self.assertNotIn("MissingCapabilities", json.dumps(host))
        status = json.loads(worker.http(agents["worker"], "http://127.0.0.1:8081/api/status")[1])
        self.assertEqual(status["TopologyProbes"]["netlink"]["Status"], "running")

        # The passwords are in no log, and nobody complains of anything but what this version lacks.
        for node, pod in ((worker, analyzer), (worker, agents["worker"]), (control, agents["control-plane"])):
            log = node.log(pod)
            for value in data.values():
                self.assertNotIn(value, log)
            usual = "not in this version|probe is absent|handshake refused|not connected, retrying|etcd: "
            strange = [line for line in log.splitlines() if re.search(" (WARN|ERROR)", line) and not re.search(usual, line)]
            self.assertEqual(strange, [], log)

        # A new analyzer finds its data and its agents again.
        docker("restart", "-t", "10", analyzer["container"])
        worker.wait_for(analyzer, "readiness", 200)
        for node in (worker, control):
            node.wait_for(agents[node.name], "readiness", 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
