"""A small OpenStack on a host of the lab: MariaDB, Keystone, Neutron and Heat as Debian packages them, real but for a message broker.

    host = here.host("openstack", testbed.KIND)
    cloud = testbed.OpenStack(host)
    cloud.start()                       # Keystone, with the administrator admin
    cloud.start_neutron()               # … with networks of the project demo, see there
    cloud.start_heat()
    cloud.tripleo({"Controller": {"overcloud-controller-0": "192.168.24.10"}})
    cloud.ask("POST", "network", "/v2.0/ports", {"port": {…}})

There are no agents of Neutron and no Nova: a port is bound to nothing until a test plugs it in, and what device it belongs to is said
by whoever makes it. Databases, keys and units are part of the image (image/prepare.sh).
"""

import json
import os
import pathlib
import shlex
import sys
import types
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "deploy"))
sys.dont_write_bytecode = True

import lab  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ["mariadb-server", "python3-pymysql", "keystone", "neutron-server", "heat-api", "heat-engine", "docker-registry", "skopeo"]
KIND = "bookworm-openstack"
lab.KINDS[KIND] = ("bookworm", PACKAGES, {"/opt/openstack/" + path.name: path.read_text() for path in sorted((HERE / "image").iterdir())},
                   "sh /opt/openstack/prepare.sh")
COMPUTE = "bookworm-podman-openvswitch"

PASSWORD = "adm:in %s"  # of the user admin
MEMBER = "demo"  # project, user of it with the role member, and that user's password
PORTS = {"keystone": 5000, "keystone-short": 5001, "neutron": 9696, "heat": 8004}
VNI = 4077
SUBNETS = {"private-v4": "10.9.0.0/24", "private-v6": "fd09::/64"}
TYPES = {"network": "neutron", "orchestration": "heat"}


class OpenStack:
    """The services of one host. ids is what there is, {"network private": "…"}; known is set as the parts are started."""

    def __init__(self, host, region="RegionOne"):
        self.host, self.region = host, region
        self.url = "http://%s:%d" % (host.address, PORTS["keystone"])  # Keystone's, without the version
        self.token, self.ids, self.roles = "", {}, {}

    # Services

    def control(self, verb, name):
        """The shell command, for the host, that starts or stops a service. A stopped one is killed."""
        return "systemctl %s openstack-%s" % (verb, name)

    def serve(self, name):
        self.host.run(self.control("start", name))

    def answers(self, name):
        try:
            with urllib.request.urlopen("http://%s:%d/" % (self.host.address, PORTS[name]), timeout=5):
                return True
        except urllib.error.HTTPError:
            return True  # 300: here are the versions
        except OSError:
            return False

    def ready(self, name):
        def journal():
            return "an answer of %s\n%s" % (name, self.host.journal("openstack-" + name))
        lab.wait(lambda: self.answers(name) or self.host.succeeds("systemctl", "is-failed", "openstack-" + name), 90, journal)
        if not self.answers(name):
            raise lab.Failed(journal())

    def start(self):
        """Keystone as its bootstrap leaves it: the administrator and one region, whose admin interface leads nowhere."""
        url = self.url + "/v3"
        lab.wait(lambda: self.host.succeeds("mariadb-admin ping"), 60, "an answer of MariaDB")
        self.host.run("keystone-manage", "bootstrap", "--bootstrap-password", PASSWORD, "--bootstrap-region-id", self.region,
                      "--bootstrap-admin-url", "http://%s:1" % self.host.address, "--bootstrap-internal-url", url,
                      "--bootstrap-public-url", url + "/")
        self.serve("keystone")
        self.ready("keystone")
        self.token = self.login("admin", PASSWORD, "admin")
        self.roles = {role["name"]: role["id"] for role in self.ask("GET", "identity", "/v3/roles")["roles"]}

    def start_neutron(self):
        """Neutron, and in the project demo: the networks private (tunnelled, both families) and public (for floating addresses), the
        router router1 between them, ports vm1 (with a floating address), vm2 and dhcp; and the network load for many ports (image/load.sql)."""
        self.serve("neutron")
        self.service("neutron", "network", "")
        project = self.user(MEMBER, MEMBER, MEMBER, "member")
        self.ready("neutron")
        private = self.make("network", name="private", tenant_id=project, **{
            "provider:network_type": "vxlan", "provider:segmentation_id": VNI})
        self.make("subnet", name="load", tenant_id=project, network_id=self.make("network", name="load", tenant_id=project), ip_version=4, cidr="10.64.0.0/16")
        public = self.make("network", name="public", **{
            "router:external": True, "provider:network_type": "flat", "provider:physical_network": "external"})
        self.make("subnet", name="public-v4", network_id=public, ip_version=4, cidr="203.0.113.0/24", enable_dhcp=False)
        for name, cidr in SUBNETS.items():
            version = {"ip_version": 6, "ipv6_address_mode": "slaac", "ipv6_ra_mode": "slaac"} if ":" in cidr else {"ip_version": 4}
            self.make("subnet", name=name, tenant_id=project, network_id=private, cidr=cidr, **version)
        router = self.make("router", name="router1", tenant_id=project, external_gateway_info={"network_id": public})
        for name in SUBNETS:
            self.ask("PUT", "network", "/v2.0/routers/%s/add_router_interface" % router, {"subnet_id": self.ids["subnet " + name]})
        for number, name in enumerate(("vm1", "vm2"), 1):
            self.make("port", name=name, tenant_id=project, network_id=private, device_owner="compute:nova",
                      device_id="00000000-0000-4000-8000-%012d" % number, **{"binding:host_id": "compute%d" % number})
        self.make("port", name="dhcp", tenant_id=project, network_id=private, device_owner="network:dhcp", device_id="dhcp-" + private)
        self.make("floatingip", tenant_id=project, floating_network_id=public, port_id=self.ids["port vm1"])

    def start_heat(self):
        self.serve("heat")
        self.service("heat", "orchestration", "/v1/%(tenant_id)s")
        for name in ("heat_stack_owner", "heat_stack_user"):
            self.roles[name] = self.ask("POST", "identity", "/v3/roles", {"role": {"name": name}})["role"]["id"]
        self.ready("heat")

    def service(self, name, kind, path):
        """Makes a service's user and its entry in the catalogue."""
        self.user(name, "x", "service", "admin")
        made = self.ask("POST", "identity", "/v3/services", {"service": {"name": name, "type": kind}})["service"]["id"]
        for interface in ("public", "internal", "admin"):
            self.ask("POST", "identity", "/v3/endpoints", {"endpoint": {
                "service_id": made, "interface": interface, "region_id": self.region,
                "url": "http://%s:%d%s" % (self.host.address, PORTS[name], path)}})

    def user(self, name, password, project, role):
        """Makes a user, the project if it is not there, and gives the role. Returns the project's id."""
        found = self.ask("GET", "identity", "/v3/projects?name=" + project)["projects"]
        project = (found or [self.ask("POST", "identity", "/v3/projects", {"project": {"name": project, "domain_id": "default"}})["project"]])[0]["id"]
        user = self.ask("POST", "identity", "/v3/users", {"user": {"name": name, "domain_id": "default", "password": password}})["user"]["id"]
        self.ask("PUT", "identity", "/v3/projects/%s/users/%s/roles/%s" % (project, user, self.roles[role]))
        return project

    # Requests, as the administrator

    def send(self, method, url, body=None, headers=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.headers, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise lab.Failed("%s %s: %s %s" % (method, url, error, error.read().decode()[:2000])) from error

    def login(self, name, password, project):
        """A token for that project."""
        user, default = {"name": name, "password": password}, {"domain": {"id": "default"}}
        return self.send("POST", self.url + "/v3/auth/tokens", {"auth": {
            "identity": {"methods": ["password"], "password": {"user": {**user, **default}}},
            "scope": {"project": {"name": project, **default}}}})[0]["X-Subject-Token"]

    def ask(self, method, kind, path, body=None):
        """What a service answers: kind is identity, network or orchestration."""
        url = "http://%s:%d" % (self.host.address, PORTS[TYPES.get(kind, "keystone")])
        return self.send(method, url + path, body, {"X-Auth-Token": self.token})[1]

    def make(self, kind, **body):
        """Makes one thing in Neutron and returns its id; ids has it as "kind name", too."""
        made = self.ask("POST", "network", "/v2.0/%ss" % kind, {kind: body})[kind]["id"]
        self.ids["%s %s" % (kind, body.get("name", ""))] = made
        return made

    def stack(self, outputs, parameters, name="overcloud"):
        """Makes a stack of Heat with these outputs and parameter_defaults, as the environment of a deployed cloud has them; returns its id."""
        project = self.ask("GET", "identity", "/v3/projects?name=admin")["projects"][0]["id"]
        template = {"heat_template_version": "2018-08-31", "outputs": {key: {"value": value} for key, value in outputs.items()}}
        made = self.ask("POST", "orchestration", "/v1/%s/stacks" % project, {
            "stack_name": name, "template": template, "environment": {"parameter_defaults": parameters}, "timeout_mins": 5})["stack"]["id"]

        def state():
            return self.ask("GET", "orchestration", "/v1/%s/stacks/%s/%s" % (project, name, made))["stack"]["stack_status"]
        lab.wait(lambda: state() == "CREATE_COMPLETE", 60, lambda: "CREATE_COMPLETE of stack %s, but %s" % (name, state()))
        return made

    def tripleo(self, roles, name="overcloud"):
        """The stack of a cloud that TripleO deployed: roles is {"Controller": {"overcloud-controller-0": "192.168.24.10"}, …}."""
        def of_role(value):
            return {role: {"ctlplane": [value(host, address) for host, address in hosts.items()]} for role, hosts in roles.items()}
        return self.stack({
            "KeystoneURL": self.url,
            "EndpointMap": {"KeystoneV3Internal": {"uri": self.url + "/v3", "host": self.host.address, "port": "5000", "protocol": "http"}},
            "RoleNetHostnameMap": of_role(lambda host, address: host + ".ctlplane.localdomain"),
            "RoleNetIpMap": of_role(lambda host, address: address),
        }, {"AdminPassword": PASSWORD}, name)

    # For a command that runs beside it

    def environment(self):
        inside = ["docker", "-H", lab.daemon().address, "exec", "-i", self.host.container, "sh", "-c"]
        values = {
            "ADDRESS": self.host.address, "AUTH_URL": self.url + "/v3", "SHORT_AUTH_URL": "http://%s:%d/v3" % (self.host.address, PORTS["keystone-short"]),
            "USERNAME": "admin", "PASSWORD": PASSWORD, "PROJECT": "admin", "USER_DOMAIN": "Default", "PROJECT_DOMAIN": "Default",
            "REGION": self.region, "MEMBER_USERNAME": MEMBER, "MEMBER_PASSWORD": MEMBER, "MEMBER_PROJECT": MEMBER, "VNI": str(VNI),
            "STACK": "overcloud", "SHELL": shlex.join(inside),
        }
        for name in ("keystone", "neutron", "heat"):
            for verb in ("stop", "start"):
                values["%s_%s" % (verb.upper(), name.upper())] = shlex.join([*inside, self.control(verb, name)])
        for verb in ("load", "unload"):
            values[verb.upper()] = shlex.join([*inside, "mariadb neutron </opt/openstack/%s.sql" % verb])
        for name, value in self.ids.items():
            values[name.upper().replace(" ", "_").replace("-", "_").strip("_")] = value
        return {"SKYDIVE_TEST_OPENSTACK_" + name: value for name, value in values.items()}


def running():
    """The OpenStack that this process runs beside (beside.py), good for requests."""
    def value(name):
        return os.environ["SKYDIVE_TEST_OPENSTACK_" + name]
    cloud = OpenStack(types.SimpleNamespace(address=value("ADDRESS")), value("REGION"))
    cloud.token = cloud.login(value("USERNAME"), value("PASSWORD"), value("PROJECT"))
    return cloud
