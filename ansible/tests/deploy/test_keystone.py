"""The Keystone part of the roles, against a real Keystone: projects, users and roles, and what is said when it cannot be done."""

import base64
import json
import sys
import unittest
import urllib.error
import urllib.request

import lab

sys.path.insert(0, str(lab.ROOT / "ansible" / "tests" / "openstack"))

import testbed  # noqa: E402

ADMIN, OTHER = testbed.PASSWORD, "o'ther"
USER, SERVICE = "ann", "skydive.service"


class Keystone(lab.Case):
    HOSTS = {"keystone": testbed.KIND, "h1": "bookworm"}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cloud = testbed.OpenStack(cls.keystone)
        cloud.start()
        cls.url = cloud.url
        cls.token = cls.login("admin", ADMIN, {"project": {"name": "admin", "domain": {"id": "default"}}})[1]

    @classmethod
    def ask(cls, method, path, body=None, token=""):
        """Status, token and object that Keystone answers; asked on its own host, with nothing of ours."""
        script = ("import json,sys,urllib.request as u,urllib.error\n"
                  "m,url,t,b=sys.argv[1:]\n"
                  "r=u.Request(url,b.encode() or None,{'X-Auth-Token':t,'Content-Type':'application/json'},method=m)\n"
                  "try: a=u.urlopen(r)\n"
                  "except urllib.error.HTTPError as e: a=e\n"
                  "print(a.status); print(a.headers.get('X-Subject-Token','')); print(a.read().decode() or 'null')\n")
        done = cls.keystone.run("python3", "-c", script, method, cls.url + "/v3" + path, token, json.dumps(body) if body else "")
        status, subject, text = done.stdout.split("\n", 2)
        return int(status), subject, json.loads(text)

    @classmethod
    def login(cls, name, password, scope=None):
        user = {"name": name, "password": password, "domain": {"id": "default"}}
        return cls.ask("POST", "/auth/tokens", {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope or "unscoped"}})

    def all(self, kind):
        return {thing["name"]: thing for thing in self.ask("GET", "/" + kind, token=self.token)[2][kind]}

    def roles(self, user, project):
        found = self.ask("GET", "/projects/%s/users/%s/roles" % (self.all("projects")[project]["id"], self.all("users")[user]["id"]), token=self.token)
        return {role["name"] for role in found[2]["roles"]}

    def deploy(self, variables=None, **options):
        inventory = self.lab.inventory([self.h1], [self.h1], {
            "skydive_auth_type": "keystone", "os_auth_url": self.url, "os_username": "admin", "os_password": ADMIN,
            "skydive_username": USER, "skydive_password": OTHER, "skydive_topology_probes": ["neutron"]})
        return self.lab.play(lab.PLAYBOOK, inventory, variables, **options)

    def test_2_check_mode_tells_and_changes_nothing(self):
        play = self.deploy(check=True, tags=["keystone"])
        self.assertEqual(len([task for task in play.tasks if "Keystone" in task]), 1, play.end())
        self.assertEqual(set(self.all("users")), {"admin"})

    def test_3_deployment_makes_what_is_missing(self):
        play = self.deploy(verbose=1)
        for action in ("project skydive is created", "user ann is created", "user ann gets role member in project skydive",
                       "project service is created", "user skydive.service is created", "user skydive.service gets role admin in project service"):
            self.assertIn(action, play.output)
        self.assertIn("has no internal endpoint of the network service in region RegionOne; it has none", " ".join(play.output.split()))
        password = [line.split(": ")[1] for line in self.h1.output("cat /etc/skydive/credentials.yml").splitlines() if "service_password" in line][0]
        for secret in (ADMIN, OTHER, password):
            self.assertNotIn(secret, play.output)
        self.assertEqual(self.login(USER, OTHER, {"project": {"name": "skydive", "domain": {"id": "default"}}})[0], 201)
        self.assertEqual(self.login(SERVICE, password, {"project": {"name": "service", "domain": {"id": "default"}}})[0], 201)
        self.assertEqual(self.roles(USER, "skydive"), {"member"})
        self.assertEqual(self.roles(SERVICE, "service"), {"admin"})
        self.users_are_let_in_as_their_role_says()

    def api(self, path, user=USER, password=OTHER, body=None):
        """Status and text of what the analyzer answers."""
        request = urllib.request.Request("http://%s:8082%s" % (self.h1.address, path), body and json.dumps(body).encode())
        request.add_header("Authorization", "Basic " + base64.b64encode(("%s:%s" % (user, password)).encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def users_are_let_in_as_their_role_says(self):
        def capture(name):
            return self.api("/api/capture", body={"GremlinQuery": "G.V().Has('Name', '%s')" % name})[0]
        self.assertEqual(self.api("/api/status")[0], 200)
        self.assertEqual(capture("first"), 201)
        self.assertEqual(self.api("/api/status", password="wrong")[0], 401)
        # Who may log in to Keystone, but is of another project, stays outside.
        self.assertEqual(self.api("/api/status", user="admin", password=ADMIN)[0], 401)
        environ = {"SKYDIVE_USERNAME": USER, "SKYDIVE_PASSWORD": OTHER, "SKYDIVE_ANALYZER": self.h1.address + ":8082"}
        self.h1.run("skydive", "client", "rbac", "policy", "set", "-", env=environ, input="p, ann, capture, write, deny\n")
        self.assertEqual(capture("second"), 405)
        self.assertEqual(self.api("/api/capture")[0], 200)
        self.h1.run("skydive", "client", "rbac", "policy", "delete", env=environ)
        self.assertEqual(capture("third"), 201)

    def test_4_second_run_changes_nothing(self):
        self.assertUnchanged(self.deploy())
        self.assertUnchanged(self.deploy(check=True))


class Changes(Keystone):
    """Refusals, and what is there already."""

    SHORT = False

    def test_1_what_cannot_be_done_is_said(self):
        for variables, want in (
                ({"os_password": "wrong"}, "os_username, os_password: Keystone at %s/v3 does not let in admin" % self.url),
                ({"os_tenant_name": "nope"}, "does not let in admin of domain Default with project nope of domain Default"),
                ({"os_auth_url": "http://%s:9" % self.keystone.address}, "os_auth_url: Keystone at http://%s:9/v3 does not answer" % self.keystone.address),
                ({"os_endpoint_type": "admin"}, "Keystone at http://%s:1/v3 does not answer" % self.keystone.address),
                ({"skydive_auth_os_domain_name": "nope"}, "Keystone has no domain nope; it has Default"),
                ({"skydive_auth_os_domain_id": "nope"}, "skydive_auth_os_domain_id: Keystone has no domain with the id nope"),
                ({"skydive_auth_os_user_role": "nope"}, "Keystone has no role nope; it has admin, "),
                ({"os_identity_api_version": "2"}, "os_identity_api_version"),
                ({"os_username": ""}, "os_username")):
            play = self.deploy(variables, fails=True, tags=["keystone"], extra=["-v"])
            self.assertIn(want, " ".join(play.output.split()))
            self.assertNotIn(ADMIN, play.output)
        self.assertEqual(set(self.all("users")), {"admin"})
        self.assertEqual(set(self.all("projects")), {"admin"})

    def test_5_a_password_that_differs_is_set(self):
        play = self.deploy({"skydive_password": "second"}, verbose=1, tags=["keystone"])
        self.assertIn("password of user ann is set", play.output)
        self.assertNotIn("is created", play.output)
        self.assertEqual(self.login(USER, "second")[0], 201)
        self.assertEqual(self.login(USER, OTHER)[0], 401)

    def test_6_the_environment_stands_in(self):
        none = {"os_auth_url": "", "os_username": "", "os_password": "", "skydive_password": "second", "skydive_os_auth_url": self.url}
        environ = {"OS_AUTH_URL": self.url + "/v2.0/", "OS_USERNAME": "admin", "OS_PASSWORD": ADMIN, "OS_PROJECT_NAME": "admin", "OS_INTERFACE": "internal"}
        self.assertUnchanged(self.deploy(none, environ=environ, tags=["keystone"]))
        play = self.deploy(none, environ={**environ, "OS_PROJECT_NAME": "nope"}, tags=["keystone"], fails=True)
        self.assertIn("with project nope", play.output)
        play = self.deploy(none, environ={**environ, "OS_IDENTITY_API_VERSION": "2.0"}, tags=["keystone"], fails=True)
        self.assertIn("os_identity_api_version", play.output)

    def test_7_a_disabled_user_is_not_enabled_behind_somebodys_back(self):
        user = self.all("users")[USER]["id"]
        self.assertEqual(self.ask("PATCH", "/users/" + user, {"user": {"enabled": False}}, self.token)[0], 200)
        play = self.deploy({"skydive_password": "second"}, tags=["keystone"], fails=True)
        self.assertIn("Keystone's user ann is disabled", play.output)

    def test_8_other_names_and_domains(self):
        made = self.ask("POST", "/domains", {"domain": {"name": "sky dive"}}, self.token)[2]["domain"]
        reader = "/roles/" + self.all("roles")["reader"]["id"]
        self.ask("PATCH", reader, {"role": {"options": {"immutable": False}}}, self.token)
        self.assertEqual(self.ask("DELETE", reader, token=self.token)[0], 204)
        self.ask("POST", "/roles", {"role": {"name": "watcher"}}, self.token)
        play = self.deploy({"skydive_auth_os_domain_name": "sky dive", "skydive_auth_os_domain_id": made["id"], "skydive_auth_os_tenant_name": "p q",
                            "skydive_auth_os_user_role": "watcher", "skydive_os_service_username": "other", "skydive_os_service_domain_name": "sky dive",
                            "skydive_os_service_tenant_name": "svc", "skydive_os_service_user_role": "reader", "os_domain_name": "Default"}, verbose=1, tags=["keystone"])
        self.assertIn("role reader is created", play.output)
        self.assertEqual(self.all("projects")["p q"]["domain_id"], made["id"])
        self.assertEqual(self.roles("other", "svc"), {"reader"})
        users = [u for u in self.ask("GET", "/users?domain_id=" + made["id"], token=self.token)[2]["users"]]
        self.assertEqual({u["name"] for u in users}, {USER, "other"})


if __name__ == "__main__":
    unittest.main()
