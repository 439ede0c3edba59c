"""The modules skydive_*, run by Ansible against real analyzers, and what they say when something is wrong."""

import ast
import http.client
import http.server
import importlib.util
import json
import os
import pathlib
import re
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LIBRARY = ROOT / "ansible" / "library"
MODULES = [LIBRARY / ("skydive_%s.py" % name) for name in ("capture", "edge", "edge_list", "node", "node_list", "query")]
SHARED = ROOT / "ansible" / "module_utils" / "skydive.py"
BINARY = os.environ.get("SKYDIVE_BINARY") or ROOT / "build" / "skydive"
USERS = {"boss": "correct-horse", "visitor": "battery-staple"}


def oid(name):
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def free_port():
    """A port that is free together with the next one, as etcd wants it."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
                return port
            except (OSError, OverflowError):
                continue


class Analyzer:
    """A running analyzer."""

    def __init__(self, directory, config):
        self.port, self.etcd = free_port(), free_port()
        self.address = "127.0.0.1:%d" % self.port
        file = directory / ("analyzer-%d.yml" % self.port)
        file.write_text(json.dumps({**config, "host_id": "a1", "analyzer.listen": self.address, "etcd.listen": "127.0.0.1:%d" % self.etcd,
                                    "etcd.data_dir": str(directory / ("etcd-%d" % self.port)),
                                    "storage.disk.path": str(directory / ("archive-%d" % self.port))}))
        self.log = open(file.with_suffix(".log"), "w+")
        self.process = subprocess.Popen([BINARY, "analyzer", "--conf", file], stdout=self.log, stderr=self.log)

    def wait(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.request("GET", "/api/capture")[0] in (200, 401):  # the resources come last
                    return
            except OSError:
                pass
            time.sleep(0.02)
        self.log.seek(0)
        raise AssertionError("the analyzer does not run: " + self.log.read())

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read()
            return response.status, text
        finally:
            connection.close()

    def get(self, path):
        status, text = self.request("GET", path)
        return json.loads(text) if status == 200 else None

    def store(self, key, value):
        """Puts a resource into etcd, past the API: the gRPC call KV.Put, whose message has the fields 1 and 2."""
        def field(number, text):
            data, size = text.encode(), b""
            length = len(data)
            while length > 127:
                size, length = size + bytes([length & 127 | 128]), length >> 7
            return bytes([number << 3 | 2]) + size + bytes([length]) + data

        message = field(1, key) + field(2, json.dumps(value))
        done = subprocess.run(["curl", "-sS", "-i", "--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers",
                               "--data-binary", "@-", "http://127.0.0.1:%d/etcdserverpb.KV/Put" % self.etcd],
                              input=b"\0" + len(message).to_bytes(4, "big") + message, capture_output=True, check=True)
        assert b"grpc-status: 0" in done.stdout, done

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


def setUpModule():
    global directory, analyzer, guarded
    if not os.access(BINARY, os.X_OK):
        raise AssertionError("%s is missing: make build" % BINARY)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="skydive-modules-"))
    unittest.addModuleCleanup(shutil.rmtree, directory)
    analyzer = Analyzer(directory, {})
    unittest.addModuleCleanup(analyzer.stop)
    guarded = Analyzer(directory, {"auth.basic.type": "basic", "auth.basic.users": USERS, "auth.basic.role": "nobody", "rbac.policy": ["g, boss, admin"],
                                   "analyzer.auth.api.backend": "basic"})
    unittest.addModuleCleanup(guarded.stop)
    analyzer.wait()
    guarded.wait()


def ansible(*command, **environ):
    """Runs Ansible as somebody without any configuration of it would."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment.update(ANSIBLE_LOCAL_TEMP=str(directory / "tmp"), ANSIBLE_NOCOLOR="1", ANSIBLE_PIPELINING="1", PYTHONDONTWRITEBYTECODE="1",
                       ANSIBLE_LOCALHOST_WARNING="0", ANSIBLE_INVENTORY_UNPARSED_WARNING="0", **environ)
    return subprocess.run(command, cwd=directory, env=environment, text=True, capture_output=True, timeout=120)


def play(tasks, *flags, roles=False):
    """Runs tasks, each a module and its arguments, in one play; returns their results. Failures do not end it."""
    results = directory / "results.json"
    results.unlink(missing_ok=True)
    steps = [{module: dict(arguments), "register": "r%d" % n, "ignore_errors": True} for n, (module, arguments) in enumerate(tasks)]
    steps.append({"ansible.builtin.copy": {"dest": str(results), "content": "{{ [%s] | to_json }}" % ", ".join("r%d" % n for n in range(len(tasks)))},
                  "check_mode": False, "diff": False})
    if roles:
        role = {"name": str(ROOT / "ansible" / "roles" / "skydive_common"), "tasks_from": "facts"}
        steps.insert(0, {"ansible.builtin.import_role": role, "when": False})
    (directory / "play.yml").write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": steps,
                                                     "vars": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}]))
    where = {} if roles else {"ANSIBLE_LIBRARY": str(LIBRARY), "ANSIBLE_MODULE_UTILS": str(SHARED.parent)}
    done = ansible("ansible-playbook", "-i", "localhost,", "play.yml", *flags, **where)
    if done.returncode or not results.exists():
        raise AssertionError(done.stdout + done.stderr)
    return json.loads(results.read_text())


class Modules(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        for node in analyzer.get("/api/node"):
            analyzer.request("DELETE", "/api/node/" + node)

    def on(self, module, **arguments):
        return module, dict(arguments, analyzer=analyzer.address)

    def changed(self, results, *want):
        self.assertEqual([r.get("msg") or r["changed"] for r in results], list(want))

    def failed(self, result, sentence):
        """A failure is one sentence, nothing else, and tells the truth about changes."""
        self.assertEqual((result["failed"], result["changed"]), (True, False))
        self.assertNotIn("module_stderr", result)
        self.assertNotIn("Traceback", result.get("exception", ""))
        self.assertRegex(result["msg"], "^%s$" % sentence)

    def graph(self):
        return analyzer.get("/api/topology")


class Nodes(Modules):
    def test_life(self):
        tor = dict(name="tor1", type="switch")
        results = play([
            self.on("skydive_node", **tor, host="rack1", metadata={"Ports": 48, "Vendor": {"Name": "ACME"}}),
            self.on("skydive_node", **tor, host="rack1", metadata={"Ports": 48.0, "Vendor": {"Name": "ACME"}}),
            self.on("skydive_node", **tor),
            self.on("skydive_node", **tor, metadata={"Ports": 24, "Up": True, "a/b~c.d": 1, "Nothing": None}),
            self.on("skydive_node", **tor, metadata={"Up": 1}),
            self.on("skydive_query", query="G.V().Has('Name', 'tor1')"),
            self.on("skydive_node", **tor, metadata={"a/b~c.d": None, "Vendor": None}),
            self.on("skydive_node", **tor, metadata={"a/b~c.d": None}),
            self.on("skydive_query", query="G.V().Has('Name', 'tor1')"),
            self.on("skydive_node", **tor, state="absent"),
            self.on("skydive_node", **tor, state="absent"),
        ], "--diff")
        self.changed(results, True, False, False, True, True, False, True, False, False, True, False)
        self.assertEqual({r["UUID"] for r in results if "UUID" in r}, {oid("tor1:switch")})
        one = results[5]["nodes"][0]
        self.assertEqual((one["ID"], one["Host"], one["Origin"]), (oid("tor1:switch"), "rack1", "api.a1"))
        self.assertEqual(one["Metadata"], {"Name": "tor1", "Type": "switch", "Ports": 24, "Vendor": {"Name": "ACME"}, "Up": 1, "a/b~c.d": 1})
        self.assertEqual(results[8]["nodes"][0]["Metadata"], {"Name": "tor1", "Type": "switch", "Ports": 24, "Up": 1})
        first = {"Name": "tor1", "Type": "switch", "Ports": 48, "Vendor": {"Name": "ACME"}}
        self.assertEqual(results[0]["diff"], {"before": {}, "after": {"Host": "rack1", "Metadata": first}})
        self.assertNotIn("diff", results[1])
        self.assertEqual([results[3]["diff"][side]["Metadata"].get("Ports") for side in ("before", "after")], [48, 24])
        self.assertEqual(results[9]["diff"]["after"], {})
        self.assertEqual(self.graph()["Nodes"], None)

    def test_what_others_add_stays(self):
        analyzer.request("POST", "/api/node", {"ID": oid("n:x"), "Metadata": {"Name": "n", "Type": "x", "Mine": 1, "Captures": [{"ID": "c"}]}})
        results = play([self.on("skydive_node", name="n", type="x", metadata={"Mine": mine}) for mine in (1, 2)])
        self.changed(results, False, True)
        self.assertEqual(analyzer.get("/api/node/" + oid("n:x"))["Metadata"], {"Name": "n", "Type": "x", "Mine": 2, "Captures": [{"ID": "c"}]})

    def test_check_mode_tells_the_truth_and_changes_nothing(self):
        analyzer.request("POST", "/api/node", {"ID": oid("there:x"), "Metadata": {"Name": "there", "Type": "x", "K": 1}})
        before = self.graph()
        tasks = [
            self.on("skydive_node", name="new", type="x"),
            self.on("skydive_node", name="there", type="x", metadata={"K": 1}),
            self.on("skydive_node", name="there", type="x", metadata={"K": 2}),
            self.on("skydive_node", name="there", type="x", host="elsewhere"),
            self.on("skydive_node_list", nodes=[{"name": "there", "type": "x"}, {"name": "other", "type": "x"}]),
            self.on("skydive_edge", node1=oid("there:x"), node2=oid("there:x"), relation_type="self"),
            self.on("skydive_edge", node1=oid("new:x"), node2="G.V().Has('Name', 'new')", relation_type="self"),
            self.on("skydive_node", name="there", type="x", state="absent"),
            self.on("skydive_node", name="gone", type="x", state="absent"),
        ]
        foretold = play(tasks, "--check", "--diff")
        self.changed(foretold, True, False, True, True, True, True, True, True, False)
        self.assertEqual(self.graph(), before)
        self.assertEqual(foretold[2]["diff"]["after"]["Metadata"], {"Name": "there", "Type": "x", "K": 2})
        self.assertEqual(set(foretold[4]["diff"]["after"]), {oid("other:x")})
        self.assertEqual(foretold[6]["warnings"], ["%s; the edge can only be made if an earlier task makes that node" % what for what in (
            "node1: no node has the ID " + oid("new:x"), "node2: no node matches G.V().Has('Name', 'new')")])
        self.assertIsNone(foretold[6]["UUID"])
        done = play(tasks, "--diff")  # in which the third and the fourth find what those before them did
        self.changed(done, True, False, True, True, True, True, True, True, False)
        self.assertEqual(foretold[0], dict(done[0]))

    def test_seed_lets_name_type_and_host_change(self):
        seeded = dict(seed="rack 12")
        edge = dict(node1=oid("rack 12"), node2="G.V().Has('Name', 'port')", relation_type="layer2", metadata={"Cable": "blue"})
        results = play([
            self.on("skydive_node", name="old", type="switch", metadata={"K": 1}, **seeded),
            self.on("skydive_node", name="port", type="port"),
            self.on("skydive_edge", **edge),
            self.on("skydive_node", name="new", type="router", host="h2", **seeded),
            self.on("skydive_node", name="new", type="router", **seeded),
            self.on("skydive_edge", **edge),
            self.on("skydive_edge", **dict(edge, host="h3")),
            self.on("skydive_edge", **dict(edge, host="h3")),
            self.on("skydive_node", name="", type="router", **seeded),
            self.on("skydive_node", name="x", type="netns", **seeded),
        ])
        self.changed(results[:8], True, True, True, True, False, False, True, False)
        self.failed(results[8], "the name of a node must not be empty")
        self.assertTrue(results[9]["failed"])
        self.assertRegex(results[9]["msg"], "^the analyzer at [0-9.:]+ refuses to create the node 'x': .*Path is required \\(status 400\\)$")
        node = analyzer.get("/api/node/" + oid("rack 12"))
        self.assertEqual((node["Metadata"], node["Host"]), ({"Name": "new", "Type": "router", "K": 1}, "h2"))
        self.assertEqual([(e["ID"], e["Host"], e["Metadata"]) for e in self.graph()["Edges"]],
                         [(results[2]["UUID"], "h3", {"RelationType": "layer2", "Cable": "blue"})])

    def test_list(self):
        nodes = [{"name": "a", "type": "x"}, {"name": "b", "type": "x", "host": "h9", "metadata": {"K": 1}},
                 {"name": "c", "type": "x", "seed": "C"}, {"name": "a", "type": "x"}]
        results = play([
            self.on("skydive_node_list", nodes=nodes, host="h1"),
            self.on("skydive_node_list", nodes=nodes, host="h1"),
            self.on("skydive_node_list", nodes=nodes[1:2] + [{"name": "d", "type": "x"}], host="h1"),
            self.on("skydive_node_list", nodes=nodes + [{"name": "a", "type": "x", "metadata": {"K": 2}}]),
            self.on("skydive_node_list", nodes=[{"name": "e", "type": "x"}, {"name": "f", "type": "netns"}, {"name": "g", "type": "x"}]),
            self.on("skydive_query", query="G.V()"),
            self.on("skydive_node_list", nodes=[]),
            self.on("skydive_node_list", nodes=nodes, state="absent"),
            self.on("skydive_node_list", nodes=nodes, state="absent"),
        ])
        self.changed(results[:3], True, False, True)
        self.assertEqual(results[0]["UUID"], [oid("a:x"), oid("b:x"), oid("C"), oid("a:x")])
        self.failed(results[3], "'a' is listed twice, with different host or metadata: one of them must go")
        self.assertTrue(results[4]["failed"] and results[4]["changed"])
        self.assertIn("'f'", results[4]["msg"])
        self.assertEqual(sorted((n["Metadata"]["Name"], n["Host"]) for n in results[5]["nodes"]),
                         [("a", "h1"), ("b", "h9"), ("c", "h1"), ("d", "h1"), ("e", "")])
        self.changed(results[6:], False, True, False)
        self.assertEqual(sorted(n["Metadata"]["Name"] for n in self.graph()["Nodes"]), ["d", "e"])


class Edges(Modules):
    def setUp(self):
        super().setUp()
        for name in "abc":
            analyzer.request("POST", "/api/node", {"ID": name, "Metadata": {"Name": name, "Type": "x"}})

    def test_life(self):
        by_id, by_query = dict(node1="a", node2="b"), dict(node1="G.V('a')", node2="g.V().Has('Name', 'b')")
        results = play([
            self.on("skydive_edge", **by_id, relation_type="layer2", metadata={"Speed": 10}),
            self.on("skydive_edge", **by_query, relation_type="layer2", metadata={"Speed": 10}),
            self.on("skydive_edge", **by_query, relation_type="layer2", metadata={"Speed": 40}),
            self.on("skydive_edge", **by_id, relation_type="ownership"),
            self.on("skydive_query", query="G.E().Has('RelationType', 'layer2')"),
            self.on("skydive_edge", **by_query, relation_type="layer2", state="absent"),
            self.on("skydive_edge", **by_id, relation_type="layer2", state="absent"),
        ], "--diff")
        self.changed(results, True, False, True, True, False, True, False)
        self.assertEqual(results[0]["UUID"], oid("a:b:layer2"))
        self.assertEqual(results[0]["diff"]["after"], {"Parent": "a", "Child": "b", "Metadata": {"RelationType": "layer2", "Speed": 10}})
        edge = results[4]["nodes"][0]
        self.assertEqual((edge["ID"], edge["Parent"], edge["Child"]), (oid("a:b:layer2"), "a", "b"))
        self.assertEqual(edge["Metadata"], {"RelationType": "layer2", "Speed": 40})
        self.assertEqual([e["ID"] for e in self.graph()["Edges"]], [oid("a:b:ownership")])

    def test_matches(self):
        one = dict(relation_type="r", node2="b")
        results = play([self.on("skydive_edge", node1=node1, **one) for node1 in (
            "G.V().Has('Name', 'nobody')", "G.V().Has('Type', 'x')", "G.V().Values('Name')", "G.V().Count()", "G.E(", "unknown", "")]
            + [self.on("skydive_edge", node1="a", node2="b", relation_type="")]
            + [self.on("skydive_edge", node1=node1, state="absent", **one) for node1 in ("G.V().Has('Name', 'nobody')", "unknown", "G.V()")])
        for result, sentence in zip(results, (
                r"node1: no node matches G\.V\(\)\.Has\('Name', 'nobody'\)", r"node1: 3 nodes match G\.V\(\)\.Has\('Type', 'x'\), where one is needed",
                r"node1: G\.V\(\)\.Values\('Name'\) does not answer nodes", r"node1: G\.V\(\)\.Count\(\) does not answer nodes",
                r"the analyzer at [0-9.:]+ refuses the query G\.E\(: .* \(status 400\)", "node1: no node has the ID unknown",
                "node1 of an edge must not be empty", "the relation_type of an edge must not be empty")):
            self.failed(result, sentence)
        self.changed(results[8:10], False, False)
        self.failed(results[10], r"node1: 3 nodes match G\.V\(\), where one is needed")
        self.assertIsNone(results[8]["UUID"])
        self.assertEqual(self.graph()["Edges"], None)

    def test_list(self):
        edges = [{"node1": "a", "node2": "G.V('b')", "relation_type": "r"},
                 {"node1": "b", "node2": "c", "relation_type": "r", "host": "h2", "metadata": {"K": 1}}]
        missing = {"node1": "a", "node2": "G.V('nobody')", "relation_type": "r"}
        results = play([
            self.on("skydive_edge_list", edges=edges, host="h1"),
            self.on("skydive_edge_list", edges=edges, host="h1"),
            self.on("skydive_edge_list", edges=[{"node1": "c", "node2": "a", "relation_type": "r"}, missing]),
            self.on("skydive_query", query="G.E()"),
            self.on("skydive_edge_list", edges=edges + [missing], state="absent"),
            self.on("skydive_edge_list", edges=edges + [missing], state="absent"),
        ])
        self.changed(results[:2], True, False)
        self.assertEqual(results[0]["UUID"], [oid("a:b:r"), oid("b:c:r")])
        self.failed(results[2], r"node2: no node matches G\.V\('nobody'\)")
        self.assertEqual(sorted((e["Parent"], e["Child"], e["Host"]) for e in results[3]["nodes"]), [("a", "b", "h1"), ("b", "c", "h2")])
        self.changed(results[4:], True, False)


class Query(Modules):
    def test_answers(self):
        for name in "ab":
            analyzer.request("POST", "/api/node", {"ID": name, "Metadata": {"Name": name, "Type": "x", "N": 1}})
        results = play([self.on("skydive_query", query=query) for query in (
            "G.V().Sort(ASC, 'Name')", "G.V().Count()", "G", "G.V().Sort(ASC, 'Name').Values('Name')", "G.V().Has('Name', 'z')", "G.V().Values('Nothing')", "G.V().Nonsense()", " ")])
        self.assertEqual([n["ID"] for n in results[0]["nodes"]], ["a", "b"])
        self.assertLessEqual({"ID", "Host", "Metadata", "CreatedAt", "UpdatedAt"}, set(results[0]["nodes"][0]))
        self.assertEqual(results[0]["result"], results[0]["nodes"])
        self.assertEqual((results[1]["result"], results[1]["nodes"]), (2, []))
        self.assertEqual(sorted(n["ID"] for n in results[2]["nodes"]), ["a", "b"])
        self.assertEqual((results[3]["result"], results[3]["nodes"]), (["a", "b"], []))
        self.assertEqual((results[4]["result"], results[4]["nodes"]), ([], []))
        self.assertEqual((results[5]["result"], results[5]["nodes"]), ([], []))
        self.changed(results[:6], *[False] * 6)
        self.failed(results[6], r"the analyzer at [0-9.:]+ refuses the query G\.V\(\)\.Nonsense\(\): .*Nonsense.* \(status 400\)")
        self.failed(results[7], "a query must not be empty")


class Trouble(Modules):
    def test_users(self):
        node = ("skydive_node", dict(analyzer=guarded.address, name="n", type="x"))
        boss, visitor = ({"username": name, "password": password} for name, password in USERS.items())
        results = play([(node[0], dict(node[1], **user)) for user in (
            boss, boss, {}, {"username": "boss", "password": "wrong"}, {"username": "boss"}, visitor, dict(boss, state="absent"))])
        self.changed(results[:2], True, False)
        self.failed(results[2], "the analyzer at [0-9.:]+ wants a user: set username and password")
        self.failed(results[3], "the analyzer at [0-9.:]+ refuses the user 'boss': Wrong credentials")
        self.failed(results[4], "the analyzer at [0-9.:]+ refuses the user 'boss': .*")
        self.failed(results[5], "the analyzer at [0-9.:]+ refuses to show the node %s: 'visitor' has no 'read' permission on 'node' \\(status 405\\)" % oid("n:x"))
        self.changed(results[6:], True)

    def test_nobody_there(self):
        with socket.socket() as silent, socketserver.ThreadingTCPServer(("127.0.0.1", 0), Babble) as babble:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            threading.Thread(target=babble.serve_forever, daemon=True).start()
            self.addCleanup(babble.shutdown)
            quiet = "127.0.0.1:%d" % silent.getsockname()[1]
            cases = [
                ("127.0.0.1:1", "the analyzer at 127.0.0.1:1 cannot be reached: Connection refused"),
                ("[::1]:1", r"the analyzer at \[::1\]:1 cannot be reached: .*"),
                ("analyzer.invalid", r"the analyzer at analyzer\.invalid cannot be reached: .*"),
                (quiet, "the analyzer at %s does not answer within 1 s" % quiet),
                ("127.0.0.1:%d" % babble.server_address[1], "the analyzer at [0-9.:]+ does not speak HTTP as expected: .*"),
                ("127.0.0.1:%d" % analyzer.etcd, "the analyzer at [0-9.:]+ has no /api/node: is it an analyzer\\?"),
                ("http://127.0.0.1:8082", "analyzer must be HOST:PORT, not 'http://127.0.0.1:8082'"),
                ("127.0.0.1:http", "analyzer must be HOST:PORT, not '127.0.0.1:http'"),
                ("127.0.0.1:99999", "analyzer must be HOST:PORT, not '127.0.0.1:99999'"),
                ("", "analyzer must be HOST:PORT, not ''"),
            ]
            started = time.monotonic()
            results = play([("skydive_node", dict(analyzer=address, name="n", type="x", timeout=1)) for address, _sentence in cases]
                           + [self.on("skydive_query", query="G", timeout=0)])
            self.assertLess(time.monotonic() - started, 30)
        for result, (_address, sentence) in zip(results, cases):
            self.failed(result, sentence)
        self.failed(results[-1], "timeout must be at least 1 second, not 0")

    def test_tls(self):
        for name in "server", "client":
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                            "-subj", "/CN=" + name, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", name + ".key", "-out", name + ".crt"],
                           cwd=directory, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.crt", directory / "server.key")
        context.load_verify_locations(directory / "client.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forward) as server:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.addCleanup(server.shutdown)
            address = "127.0.0.1:%d" % server.server_address[1]
            ca = {"ca_cert": str(directory / "server.crt")}
            mine = {"client_cert": str(directory / "client.crt"), "client_key": str(directory / "client.key")}
            results = play([("skydive_node", dict(analyzer=address, ssl=True, name="n", type="x", timeout=5, **more)) for more in (
                {**ca, **mine}, {"insecure": True, **mine}, mine, ca, {"ca_cert": str(directory / "play.yml")}, {"ca_cert": "/nonexistent/ca.crt"})]
                + [("skydive_node", dict(analyzer=analyzer.address, ssl=True, name="n", type="x"))])
        self.changed(results[:2], True, False)
        self.failed(results[2], r"the certificate of the analyzer at [0-9.:]+ is not trusted \(.+\): give its authority as ca_cert")
        self.failed(results[3], "no TLS connection to the analyzer at [0-9.:]+: .+")
        self.failed(results[4], "the certificates in .*/play.yml cannot be used: .+")
        self.failed(results[5], "the certificates in /nonexistent/ca.crt cannot be used: No such file or directory")
        self.failed(results[6], "no TLS connection to the analyzer at [0-9.:]+: WRONG_VERSION_NUMBER")


class Babble(socketserver.BaseRequestHandler):
    """Not a web server."""

    def handle(self):
        self.request.sendall(b"220 ready\r\n")


class Forward(http.server.BaseHTTPRequestHandler):
    """Hands requests on to the analyzer."""

    protocol_version = "HTTP/1.1"

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, text = self.answer(json.loads(body) if body else None)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def answer(self, body):
        return analyzer.request(self.command, self.path, body)

    do_GET = do_POST = do_PATCH = do_DELETE = forward

    def log_message(self, *args):
        pass


class Captures(Modules):
    def setUp(self):
        for capture in analyzer.get("/api/capture"):
            analyzer.request("DELETE", "/api/capture/" + capture)

    def test_what_is_there(self):
        for number in "23":
            analyzer.store("/capture/" + number, {"UUID": number, "Name": "twin", "GremlinQuery": "G.E()", "BPFFilter": "port " + number})
        analyzer.store("/capture/1", {"UUID": "1", "Name": "dns", "GremlinQuery": "G.V()", "BPFFilter": "port 53", "LayerKeyMode": "L2", "ExtraLayers": 3})
        results = play([
            self.on("skydive_capture", name="dns", query="G.V()", bpf_filter="port 53", extra_layers=["DNS", "VRRP"], description=""),
            self.on("skydive_capture", query="G.V()", bpf_filter="port 53"),
            self.on("skydive_capture", name="dns", query="G.V("),
            self.on("skydive_capture", name="dns", query="G.V()", bpf_filter="tcp prot 80"),
            self.on("skydive_capture", name="dns"),
            self.on("skydive_capture", name="other", state="absent"),
            self.on("skydive_capture", query="G.V()", state="absent"),
            self.on("skydive_capture", name="dns", query="G.V()", type="nonsense"),
            self.on("skydive_capture", name="dns", state="absent"),
            self.on("skydive_capture", name="dns", state="absent"),
            self.on("skydive_capture", name="twin", state="absent"),
        ], "--diff")
        self.changed(results[:1], False)
        self.assertEqual((results[0]["UUID"], results[0]["capture"]["BPFFilter"]), ("1", "port 53"))
        self.assertTrue(results[1]["capture"]["Name"] == "dns" and not results[1]["changed"])
        self.failed(results[2], r"the analyzer at [0-9.:]+ refuses to create the capture 'dns': GremlinQuery: .* \(status 400\)")
        self.failed(results[3], r"the analyzer at [0-9.:]+ refuses to create the capture 'dns': .*BPFFilter: .* \(status 400\)")
        self.failed(results[4], "a capture needs a query")
        self.changed(results[5:7], False, False)
        self.failed(results[7], r".* Type: Not a valid capture type: nonsense.*")
        self.changed(results[8:10], True, False)
        self.assertEqual(results[8]["diff"]["before"]["Name"], "dns")
        self.failed(results[10], "there are 2 captures 'twin', where one is needed: 2, 3")
        self.assertEqual(sorted(analyzer.get("/api/capture")), ["2", "3"])

    def test_what_is_made(self):
        every = dict(name="all", query="G.V().Has('Name', 'eth0')", description="everything", type="afpacket", bpf_filter="icmp", port=6343,
                     sampling_rate=10, polling_interval=20, raw_packet_limit=5, header_size=128, extra_tcp_metric=True, ip_defrag=True,
                     reassemble_tcp=True, layer_key_mode="L3", extra_layers=["VRRP", "DHCPv4"], target="10.0.0.1:4739", target_type="netflowv5")
        foretold = play([self.on("skydive_capture", **every)], "--check")
        self.changed(foretold, True)
        self.assertEqual((foretold[0]["UUID"], analyzer.get("/api/capture")), (None, {}))
        results = play([
            self.on("skydive_capture", **every),
            self.on("skydive_capture", **every),
            self.on("skydive_capture", **dict(every, bpf_filter="udp")),  # both can be there: the new one comes first
            self.on("skydive_capture", **dict(every, bpf_filter="udp", header_size=64)),  # the two exclude each other
            self.on("skydive_capture", **dict(every, bpf_filter="udp", header_size=5)),
            self.on("skydive_capture", query="G.V()"),
            self.on("skydive_capture", query="G.V()", bpf_filter="tcp"),
            self.on("skydive_capture", query="G.V()", state="absent"),
            self.on("skydive_capture", capture_name="all", query="G", state="absent"),
        ], "--diff")
        self.changed(results[:4], True, False, True, True)
        self.assertEqual({k: v for k, v in results[0]["capture"].items() if k != "UUID"}, {
            "Name": "all", "GremlinQuery": "G.V().Has('Name', 'eth0')", "Description": "everything", "Type": "afpacket", "BPFFilter": "icmp", "Count": 0,
            "Port": 6343, "SamplingRate": 10, "PollingInterval": 20, "RawPacketLimit": 5, "HeaderSize": 128, "ExtraTCPMetric": True,
            "IPDefrag": True, "ReassembleTCP": True, "LayerKeyMode": "L3", "ExtraLayers": 5, "Target": "10.0.0.1:4739", "TargetType": "netflowv5"})
        self.assertEqual(results[2]["diff"], {"before": {"BPFFilter": "icmp"}, "after": {"BPFFilter": "udp"}})
        self.assertEqual(len({results[n]["UUID"] for n in (0, 1, 2, 3)}), 3)
        self.assertRegex(results[4]["msg"], "A valid header size")
        self.changed(results[5:], True, True, True, True)
        self.assertEqual([c["BPFFilter"] for c in analyzer.get("/api/capture").values()], ["tcp"])


class Found(unittest.TestCase):
    """Ansible finds modules and their documentation where they are."""

    def test_with_a_role_and_no_configuration(self):
        result, = play([("skydive_query", dict(analyzer=analyzer.address, query="G.V().Count()"))], roles=True)
        self.assertFalse(result.get("failed"), result)

    def test_documentation_prints(self):
        done = ansible("ansible-doc", "-M", str(LIBRARY), "--json", *[path.stem for path in MODULES])
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for name, texts in json.loads(done.stdout).items():
            self.assertTrue(all(texts[part] for part in ("doc", "examples", "return")), name)


class Documentation(unittest.TestCase):
    def block(self, path, name):
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.Assign) and statement.targets[0].id == name:
                return yaml.safe_load(statement.value.value)
        raise AssertionError("%s has no %s" % (path, name))

    def load(self, path, name):
        specification = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    def arguments(self, path):
        """What the module gives to AnsibleModule."""
        sys.modules["ansible.module_utils.skydive"] = self.load(SHARED, "ansible.module_utils.skydive")
        self.addCleanup(sys.modules.pop, "ansible.module_utils.skydive", None)
        module = self.load(path, path.stem)
        given = {}
        module.AnsibleModule, module.run = lambda **kw: given.update(kw), lambda *_args: None
        module.main()
        self.assertTrue(given["supports_check_mode"])
        return given["argument_spec"]

    def test_options_are_the_arguments(self):
        def compare(options, arguments, path):
            self.assertEqual(set(options), set(arguments), path)
            for name, option in options.items():
                told = {key: value for key, value in option.items() if key not in ("description", "suboptions")}
                taken = {key: value for key, value in arguments[name].items() if key not in ("no_log", "options")}
                self.assertEqual(told, taken, "%s %s" % (path, name))
                compare(option.get("suboptions", {}), arguments[name].get("options", {}), path)

        for path in MODULES:
            arguments = self.arguments(path)
            compare(self.block(path, "DOCUMENTATION")["options"], arguments, path)
            self.assertTrue(arguments["password"]["no_log"])

    def test_examples_are_plays(self):
        examples = directory / "examples.yml"
        examples.write_text(json.dumps([{"hosts": "localhost", "tasks": self.block(path, "EXAMPLES")} for path in MODULES]))
        done = ansible("ansible-playbook", "-i", "localhost,", "--syntax-check", str(examples), ANSIBLE_LIBRARY=str(LIBRARY))
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_page_is_run(self):
        """The play of docs/ansible-modules.md does what the page says, and the second time nothing."""
        text = (ROOT / "docs" / "ansible-modules.md").read_text()
        for path in MODULES:
            self.assertIn("`%s`" % path.stem, text)
        blocks = re.findall(r"```yaml\n(.*?)```", text, re.S)
        self.assertEqual(len(blocks), 1)
        for node in analyzer.get("/api/node"):
            analyzer.request("DELETE", "/api/node/" + node)
        analyzer.request("POST", "/api/node", {"ID": "h", "Metadata": {"Name": "host1", "Type": "host"}})
        analyzer.request("POST", "/api/node", {"ID": "e", "Metadata": {"Name": "eth0", "Type": "device"}})
        analyzer.request("POST", "/api/edge", {"ID": "o", "Parent": "h", "Child": "e", "Metadata": {"RelationType": "ownership"}})
        page = directory / "page.yml"
        page.write_text(blocks[0].replace("127.0.0.1:8082", analyzer.address))
        for changed in 2, 0:
            done = ansible("ansible-playbook", "-i", "localhost,", "-c", "local", "-e", "ansible_python_interpreter=" + sys.executable, str(page),
                           ANSIBLE_LIBRARY=str(LIBRARY), ANSIBLE_MODULE_UTILS=str(SHARED.parent))
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertRegex(done.stdout, r"changed=%d .*failed=0" % changed)
            self.assertIn("tor1 leads to eth0", done.stdout)

    def test_old_pythons(self):
        """Python 3.6, and its standard library only."""
        for path in [SHARED, *MODULES]:
            for statement in ast.walk(ast.parse(path.read_text(), feature_version=(3, 6))):
                names = [statement.module] if isinstance(statement, ast.ImportFrom) else []
                names += [n.name for n in statement.names] if isinstance(statement, ast.Import) else []
                for name in names:
                    known = name.startswith("ansible.module_utils.") or name.split(".")[0] in sys.stdlib_module_names
                    self.assertTrue(known, "%s: %s" % (path, name))


if __name__ == "__main__":
    unittest.main()
