# SPDX-License-Identifier: Apache-2.0
"""What the skydive_* modules share: a client of an analyzer's REST API, made of the standard library, and how elements are kept as wanted."""

import http.client
import json
import socket
import ssl
import urllib.parse
import uuid

PORT = 8082

CONNECTION = dict(
    analyzer=dict(type="str", default="127.0.0.1:%d" % PORT),
    ssl=dict(type="bool", default=False),
    insecure=dict(type="bool", default=False),
    ca_cert=dict(type="path"),
    client_cert=dict(type="path"),
    client_key=dict(type="path"),
    username=dict(type="str", default=""),
    password=dict(type="str", default="", no_log=True),
    timeout=dict(type="int", default=10),
)
STATE = dict(type="str", default="present", choices=["present", "absent"])


class Failure(Exception):
    """Why a task fails, in one sentence, and the status of the answer that it comes from."""

    def __init__(self, sentence, status=None):
        super().__init__(sentence)
        self.status = status


def run(module, work):
    """Runs work with a client; its answer is the module's."""
    analyzer = None
    try:
        if module.params["timeout"] < 1:
            raise Failure("timeout must be at least 1 second, not %d" % module.params["timeout"])
        analyzer = Analyzer(module.params, module.check_mode)
        module.exit_json(**work(module, analyzer))
    except Failure as failure:
        module.fail_json(msg=str(failure), changed=analyzer is not None and analyzer.changed)


class Analyzer:
    """An analyzer, asked over one connection. In check mode it is only asked, never told."""

    def __init__(self, params, check_mode=False):
        self.name = "the analyzer at %s" % params["analyzer"]
        self.check_mode = check_mode
        self.changed = False  # something was changed for real
        self.headers = {"Accept": "application/json"}
        self.timeout = params["timeout"]
        host, port = address(params["analyzer"])
        if params["ssl"]:
            self.connection = http.client.HTTPSConnection(host, port, timeout=self.timeout, context=self.tls(params))
        else:
            self.connection = http.client.HTTPConnection(host, port, timeout=self.timeout)
        if params["username"]:
            self.log_in(params["username"], params["password"])

    @staticmethod
    def tls(params):
        try:
            context = ssl.create_default_context(cafile=params["ca_cert"])
            if params["client_cert"]:
                context.load_cert_chain(params["client_cert"], params["client_key"])
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            names = [params[name] for name in ("ca_cert", "client_cert", "client_key") if params[name]]
            raise Failure("the certificates in %s cannot be used: %s" % (" and ".join(names), reason(error)))
        if params["insecure"]:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def log_in(self, username, password):
        form = urllib.parse.urlencode({"username": username, "password": password})
        status, text = self.exchange("POST", "/login", form, "application/x-www-form-urlencoded")
        if status == 401:
            raise Failure("%s refuses the user '%s': %s" % (self.name, username, text))
        if status != 200:
            raise self.refusal("to log in", status, text)
        token = self.decoded(text, dict).get("Token")
        if token:
            self.headers["X-Auth-Token"] = token

    def exchange(self, method, path, body=None, content_type="application/json"):
        """Sends a request; returns status and text of the answer."""
        headers = dict(self.headers)
        if body is not None:
            headers["Content-Type"] = content_type
            body = body.encode()
        try:
            self.connection.request(method, path, body, headers)
            response = self.connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace").strip()
        except socket.timeout:  # which is TimeoutError in newer Pythons only
            raise Failure("%s does not answer within %d s" % (self.name, self.timeout))
        except ssl.SSLError as error:
            if error.reason == "CERTIFICATE_VERIFY_FAILED":
                why = getattr(error, "verify_message", "it cannot be verified")  # Python 3.6 does not say why
                raise Failure("the certificate of %s is not trusted (%s): give its authority as ca_cert" % (self.name, why))
            raise Failure("no TLS connection to %s: %s" % (self.name, reason(error)))
        except OSError as error:
            raise Failure("%s cannot be reached: %s" % (self.name, reason(error)))
        except (http.client.HTTPException, ValueError) as error:
            raise Failure("%s does not speak HTTP as expected: %s" % (self.name, reason(error)))

    def call(self, doing, method, path, body=None, fine=(200,)):
        """Sends a JSON request; any status that is not fine fails."""
        status, text = self.exchange(method, path, None if body is None else json.dumps(body))
        if status not in fine:
            raise self.refusal(doing, status, text)
        return status, text

    def refusal(self, doing, status, text):
        if status == 401 and "X-Auth-Token" not in self.headers:
            return Failure("%s wants a user: set username and password" % self.name)
        lines = text.splitlines() or [http.client.responses.get(status, "no reason given")]
        return Failure("%s refuses %s: %s (status %d)" % (self.name, doing, lines[0][:300], status), status)

    def decoded(self, text, kind=object):
        try:
            value = json.loads(text)
            if isinstance(value, kind):
                return value
        except ValueError:
            pass
        raise Failure("%s does not answer as an analyzer would: %s" % (self.name, text[:100] or "nothing"))

    def query(self, gremlin):
        if not gremlin.strip():
            raise Failure("a query must not be empty")
        found = self.decoded(self.call("the query %s" % gremlin, "POST", "/api/topology", {"GremlinQuery": gremlin})[1])
        return [] if found is None else found  # an empty list is null

    def list(self, kind):
        """All objects of a kind, by identifier."""
        return self.decoded(self.call("to list the %ss" % kind, "GET", "/api/" + kind)[1], dict)

    def get(self, kind, identifier):
        """One object, or None."""
        status, text = self.call("to show the %s %s" % (kind, identifier), "GET", path(kind, identifier), fine=(200, 404))
        if status == 200:
            return self.decoded(text, dict)
        if "'%s' not found" % identifier not in text:  # any other 404 is about the path
            raise Failure("%s has no /api/%s: is it an analyzer?" % (self.name, kind))
        return None

    def create(self, kind, wanted, label):
        if self.check_mode:
            return wanted
        text = self.call("to create the %s %s" % (kind, label), "POST", "/api/" + kind, wanted, fine=(200, 201))[1]
        self.changed = True
        return self.decoded(text, dict)

    def delete(self, kind, identifier, label):
        if not self.check_mode:
            status = self.call("to delete the %s %s" % (kind, label), "DELETE", path(kind, identifier), fine=(200, 404))[0]
            self.changed = self.changed or status == 200

    def patch(self, kind, identifier, operations, label):
        if not self.check_mode:
            status = self.call("to update the %s %s" % (kind, label), "PATCH", path(kind, identifier), operations, fine=(200, 304))[0]
            self.changed = self.changed or status == 200


def path(kind, identifier):
    return "/api/%s/%s" % (kind, urllib.parse.quote(identifier, safe=""))


def address(text):
    """Host and port of HOST:PORT, HOST, [IPv6]:PORT or IPv6."""
    bare = "[%s]" % text if text.count(":") > 1 and "[" not in text else text
    try:
        parts = urllib.parse.urlsplit("//" + bare)
        if parts.hostname and parts.netloc == bare and "@" not in bare:
            return parts.hostname, parts.port or PORT
    except ValueError:
        pass
    raise Failure("analyzer must be HOST:PORT, not '%s'" % text)


def reason(error):
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__


def identifier(name):
    """The UUID that Skydive's publishers derive from a name."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def same(a, b):
    """Whether an analyzer keeps the two alike: to it 1.0 is 1, while 1 is not true."""
    return canonical(a) == canonical(b)


def canonical(value):
    def plain(v):
        if isinstance(v, dict):
            return {key: plain(item) for key, item in v.items()}
        if isinstance(v, (list, tuple)):
            return [plain(item) for item in v]
        return int(v) if isinstance(v, float) and v.is_integer() else v

    return json.dumps(plain(value), sort_keys=True)


def ensure(analyzer, kind, wanted, label, state):
    """Makes a node or an edge as wanted. Returns what it was and what it is then, or None when nothing had to change.

    Of the metadata only the keys that are wanted are looked at, so that what others add, such as captures, stays; null removes a key.
    """
    now = analyzer.get(kind, wanted["ID"]) if wanted["ID"] else None  # an edge without one of its nodes has no ID
    if state == "absent":
        if now is None:
            return None
        analyzer.delete(kind, wanted["ID"], label)
        return shown(now), {}
    new = {key: value for key, value in wanted["Metadata"].items() if value is not None}
    if now is None:
        made = analyzer.create(kind, dict(wanted, Metadata=new), label)
        return {}, shown(made)

    old = now.get("Metadata") or {}
    changes = {key: value for key, value in wanted["Metadata"].items() if not same(old.get(key), value)}
    replace = any(key in changes for key in ("Name", "Type")) if kind == "node" else False
    replace = replace or wanted["Host"] not in ("", now.get("Host", ""))
    if not changes and not replace:
        return None
    merged = {key: value for key, value in old.items() if key not in changes}
    merged.update((key, value) for key, value in changes.items() if value is not None)
    after = dict(now, Metadata=merged, Host=wanted["Host"] or now.get("Host", ""))
    if replace:
        recreate(analyzer, kind, now, after, label)
    else:
        analyzer.patch(kind, now["ID"], [operation(key, value) for key, value in sorted(changes.items())], label)
    return shown(now), shown(after)


def operation(key, value):
    pointer = "/Metadata/" + key.replace("~", "~0").replace("/", "~1")
    return {"op": "remove", "path": pointer} if value is None else {"op": "add", "path": pointer, "value": value}


def recreate(analyzer, kind, old, new, label):
    """Puts new into the place of old, for what cannot be patched: name, type and host. A node keeps its edges."""
    if analyzer.check_mode:
        return
    new["Metadata"].pop("TID", None)  # derived from name and type
    edges = []
    if kind == "node":
        edges = [edge for edge in analyzer.list("edge").values() if old["ID"] in (edge["Parent"], edge["Child"])]
    analyzer.delete(kind, old["ID"], label)
    try:
        analyzer.create(kind, new, label)
    except Failure:
        analyzer.create(kind, old, label)
        raise
    finally:
        for edge in edges:
            analyzer.create("edge", edge, edge["ID"])


def shown(element):
    """What --diff shows of an element."""
    return {key: element[key] for key in ("Parent", "Child", "Host", "Metadata") if element.get(key)}


def ensure_all(analyzer, kind, wanted, state):
    """Makes all elements, a list of (element, label), as wanted. Returns the answer of a list module."""
    unique = {}
    for element, label in wanted:
        if element["ID"] and element["ID"] in unique and not same(unique[element["ID"]][0], element):
            raise Failure("%s is listed twice, with different host or metadata: one of them must go" % label)
        unique[element["ID"] or label] = element, label
    differences = {}
    for key, (element, label) in unique.items():
        difference = ensure(analyzer, kind, element, label, state)
        if difference:
            differences[key] = difference
    before, after = ({key: pair[i] for key, pair in differences.items()} for i in (0, 1))
    return answer((before, after) if differences else None, UUID=[element["ID"] for element, _label in wanted])


def ensure_one(analyzer, kind, wanted, state):
    """Makes one element, (element, label), as wanted. Returns the answer of a module."""
    return answer(ensure(analyzer, kind, wanted[0], wanted[1], state), UUID=wanted[0]["ID"])


def answer(difference, **more):
    """What a module returns; a difference is what was before and what is after, or None."""
    if difference:
        more["diff"] = dict(before=difference[0], after=difference[1])
    return dict(more, changed=difference is not None)


def node(name, kind, seed, host, metadata):
    """The node that the arguments describe, and what to call it."""
    for key, value in (("name", name), ("type", kind)):
        if not value:
            raise Failure("the %s of a node must not be empty" % key)
    element = dict(ID=identifier(seed or "%s:%s" % (name, kind)), Host=host or "", Metadata=dict(metadata or {}, Name=name, Type=kind))
    return element, "'%s'" % name


class Ends:
    """The nodes that edges end at, given by ID or by Gremlin; each is looked up once."""

    def __init__(self, module, analyzer, state):
        self.module, self.analyzer, self.state = module, analyzer, state
        self.known = {}

    def find(self, argument, text):
        """The ID of a node, or None where there is none and that may be so."""
        if text not in self.known:
            self.known[text] = self.look_up(argument, text)
        return self.known[text]

    def look_up(self, argument, text):
        if not text:
            raise Failure("%s of an edge must not be empty" % argument)
        if not text.startswith(("G.", "g.")):
            if self.state == "present" and self.analyzer.get("node", text) is None:
                self.missing("%s: no node has the ID %s" % (argument, text))
            return text
        try:
            found = self.analyzer.query(text)
        except Failure as failure:
            if failure.status != 400 or "does not exist" not in str(failure):
                raise
            found = []  # G.V('ID') of a node that is not there
        if not isinstance(found, list) or not all(isinstance(n, dict) and "ID" in n and "Parent" not in n for n in found):
            raise Failure("%s: %s does not answer nodes" % (argument, text))
        if len(found) > 1:
            raise Failure("%s: %d nodes match %s, where one is needed" % (argument, len(found), text))
        if not found:
            if self.state == "present":
                self.missing("%s: no node matches %s" % (argument, text))
            return None
        return found[0]["ID"]

    def missing(self, sentence):
        # A dry run does not have the nodes of the tasks before it.
        if not self.module.check_mode:
            raise Failure(sentence)
        self.module.warn(sentence + "; the edge can only be made if an earlier task makes that node")


def edge(ends, node1, node2, relation, host, metadata):
    """The edge that the arguments describe, and what to call it. Its ID is None when one of its ends does not exist."""
    if not relation:
        raise Failure("the relation_type of an edge must not be empty")
    parent, child = ends.find("node1", node1), ends.find("node2", node2)
    made = identifier("%s:%s:%s" % (parent, child, relation)) if parent and child else None
    element = dict(ID=made, Parent=parent, Child=child, Host=host or "", Metadata=dict(metadata or {}, RelationType=relation))
    return element, "%s -> %s (%s)" % (node1, node2, relation)
