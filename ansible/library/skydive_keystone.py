#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""See to it that Skydive has its projects, users and roles in Keystone."""

DOCUMENTATION = r"""
module: skydive_keystone
short_description: See to it that Skydive has its projects, users and roles in Keystone
version_added: 1.0.0
author: The Skydive authors
description:
  - Sees to it that every user of I(users) exists, has its password and has its role in its project. What is missing is created,
    what is there stays as it is; a password is set only when Keystone refuses to let the user in with it.
  - Speaks version 3 of the identity API and needs nothing but Python. Used by the Skydive roles with the variables of the same names.
options:
  auth_url: {description: "URL of Keystone.", type: str, required: true}
  username: {description: "The administrator.", type: str, required: true}
  password: {description: "The administrator's password.", type: str, required: true}
  tenant_name: {description: "Project of the administrator.", type: str, default: admin}
  user_domain_name: {description: "Domain of the administrator.", type: str, default: Default}
  project_domain_name: {description: "Domain of that project.", type: str, default: Default}
  interface: {description: "Endpoint of the catalogue that is asked.", type: str, choices: [public, internal, admin], default: public}
  region_name: {description: "Region whose endpoints are looked at.", type: str, default: ""}
  ca_cert: {description: "Authorities that signed Keystone's certificate.", type: path}
  validate_certs: {description: "Verify Keystone's certificate.", type: bool, default: true}
  timeout: {description: "Seconds to wait for an answer.", type: int, default: 30}
  network_interface:
    description: "Endpoint of the network service that has to be in the catalogue; a warning says when it is not. Empty: not looked for."
    type: str
    default: ""
  users:
    description: "The users."
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: "Name of the user.", type: str, required: true}
      password: {description: "The user's password.", type: str, required: true}
      domain_name: {description: "Name of the user's domain.", type: str, default: Default}
      tenant_name: {description: "Project in which the user gets the role.", type: str, required: true}
      tenant_domain_id: {description: "Id of that project's domain. Empty: the user's domain.", type: str, default: ""}
      role: {description: "The role. The standard roles reader and member are created if Keystone is too old to have them.", type: str, required: true}
attributes:
  check_mode:
    description: Keystone is asked, and nothing in it changed.
    support: full
  diff_mode:
    description: I(actions) tell the difference.
    support: none
notes:
  - Only the standard library of Python 3.6 or newer is needed on the host that runs the module, which must reach Keystone.
"""

EXAMPLES = r"""
- name: A service user
  skydive_keystone:
    auth_url: https://keystone.example.org:5000
    username: admin
    password: "{{ admin_password }}"
    users:
      - {name: skydive.service, password: "{{ service_password }}", tenant_name: service, role: reader}
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["project skydive is created"]
"""

import json
from urllib.error import HTTPError
from urllib.parse import urlencode

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

# Keystone makes these when it is set up, since 2018; before, they give no more than membership of the project.
STANDARD_ROLES = ("reader", "member")


class Refused(Exception):
    """Keystone's answer is an error, or there is none; the text is a sentence."""

    def __init__(self, text, status=0):
        super().__init__(text)
        self.status = status


class Keystone:
    def __init__(self, module):
        self.module = module
        self.params = module.params
        self.url = base(self.params["auth_url"])
        self.token = None
        self.actions = []

    def call(self, method, path, body=None):
        """The answer's headers and its object."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self.token:
            headers["X-Auth-Token"] = self.token
        try:
            answer = open_url(self.url + path, method=method, data=None if body is None else json.dumps(body), headers=headers,
                              validate_certs=self.params["validate_certs"], ca_path=self.params["ca_cert"], timeout=self.params["timeout"])
            text = answer.read()
            return answer.headers, json.loads(text) if text else {}
        except HTTPError as error:
            raise Refused("%s %s%s: %d %s" % (method, self.url, path.split("?")[0], error.code, reason(error)), error.code)
        except ValueError:
            raise Refused("%s%s does not answer as Keystone does" % (self.url, path))
        except Exception as error:  # every way in which a connection can fail
            raise Refused("Keystone at %s does not answer: %s" % (self.url, getattr(error, "reason", None) or error))

    def login(self):
        """Become the administrator; afterwards the endpoint of the catalogue is asked."""
        p = self.params
        user = {"name": p["username"], "password": p["password"], "domain": {"name": p["user_domain_name"]}}
        scope = {"project": {"name": p["tenant_name"], "domain": {"name": p["project_domain_name"]}}}
        try:
            headers, answer = self.call("POST", "/auth/tokens", {"auth": {"identity": password_of(user), "scope": scope}})
        except Refused as error:
            if error.status == 401:
                raise Refused("os_username, os_password: Keystone at %s does not let in %s of domain %s with project %s of domain %s" % (
                    self.url, p["username"], p["user_domain_name"], p["tenant_name"], p["project_domain_name"]))
            raise Refused("os_auth_url: %s" % error)
        self.token = headers["X-Subject-Token"]
        self.catalogue = answer.get("token", {}).get("catalog", [])
        there = self.endpoints("identity")
        mine = [e for e in there if e["interface"] == p["interface"]]
        if there and not mine:
            raise Refused("os_endpoint_type: Keystone's catalogue has no %s endpoint of the identity service; it has %s" % (
                p["interface"], listed(e["interface"] for e in there)))
        near = [e for e in mine if e["region"] == p["region_name"]] or mine
        if near:
            self.url = base(near[0]["url"])

    def endpoints(self, kind):
        return [e for service in self.catalogue if service.get("type") == kind for e in service.get("endpoints", [])]

    def look_for_network(self):
        p = self.params
        there = self.endpoints("network")
        if not [e for e in there if (e["interface"], e["region"]) == (p["network_interface"], p["region_name"])]:
            self.module.warn(
                "skydive_os_service_endpoint_type, skydive_os_service_region_name: Keystone's catalogue has no %s endpoint of the network "
                "service in region %s; it has %s" % (p["network_interface"], p["region_name"],
                                                    listed("%s in %s" % (e["interface"], e["region"]) for e in there)))

    def find(self, kind, **query):
        """The object of that name, or None."""
        found = self.call("GET", "/%s?%s" % (kind, urlencode(query)))[1][kind]
        return found[0] if found else None

    def create(self, kind, thing, name, **fields):
        """A new object; in check mode one without an id."""
        self.actions.append("%s %s is created" % (thing, name))
        fields.update(name=name)
        return {} if self.module.check_mode else self.call("POST", "/" + kind, {thing: fields})[1][thing]

    def domain(self, name):
        found = self.find("domains", name=name)
        if not found:
            raise Refused("Keystone has no domain %s; it has %s" % (name, listed(d["name"] for d in self.call("GET", "/domains")[1]["domains"])))
        return found["id"]

    def project(self, name, domain):
        try:
            self.call("GET", "/domains/" + domain)
        except Refused as error:
            raise Refused("skydive_auth_os_domain_id: Keystone has no domain with the id %s" % domain) if error.status == 404 else error
        return self.find("projects", name=name, domain_id=domain) or \
            self.create("projects", "project", name, domain_id=domain, description="Skydive", enabled=True)

    def user(self, want, domain, project):
        found = self.find("users", name=want["name"], domain_id=domain)
        if not found:
            return self.create("users", "user", want["name"], domain_id=domain, password=want["password"], enabled=True,
                               description="Skydive", **({"default_project_id": project["id"]} if project else {}))
        if not found.get("enabled", True):
            raise Refused("Keystone's user %s is disabled: enable it, or name another" % want["name"])
        if not self.lets_in(found["id"], want["password"]):
            self.actions.append("password of user %s is set" % want["name"])
            if not self.module.check_mode:
                self.call("PATCH", "/users/" + found["id"], {"user": {"password": want["password"]}})
        return found

    def lets_in(self, user, password):
        try:
            self.call("POST", "/auth/tokens", {"auth": {"identity": password_of({"id": user, "password": password}), "scope": "unscoped"}})
        except Refused as error:
            if error.status == 401:
                return False
            raise
        return True

    def role(self, name):
        found = self.find("roles", name=name)
        if found:
            return found
        if name not in STANDARD_ROLES:
            raise Refused("Keystone has no role %s; it has %s" % (name, listed(r["name"] for r in self.call("GET", "/roles")[1]["roles"])))
        return self.create("roles", "role", name)

    def assign(self, want, user, project, role):
        path = None
        if user and project and role:
            path = "/projects/%s/users/%s/roles/%s" % (project["id"], user["id"], role["id"])
            try:
                return self.call("HEAD", path)
            except Refused as error:
                if error.status != 404:
                    raise
        self.actions.append("user %s gets role %s in project %s" % (want["name"], want["role"], want["tenant_name"]))
        if path and not self.module.check_mode:
            self.call("PUT", path)

    def ensure(self, want):
        domain = self.domain(want["domain_name"])
        role = self.role(want["role"])
        project = self.project(want["tenant_name"], want["tenant_domain_id"] or domain)
        self.assign(want, self.user(want, domain, project), project, role)


def base(url):
    """The URL of version 3, however the user wrote it."""
    url = url.rstrip("/")
    for version in ("/v2.0", "/v3"):
        if url.endswith(version):
            url = url[:-len(version)]
    return url.rstrip("/") + "/v3"


def password_of(user):
    return {"methods": ["password"], "password": {"user": user}}


def listed(words):
    return ", ".join(sorted(set(words))) or "none"


def reason(error):
    try:
        return json.loads(error.read())["error"]["message"]
    except Exception:  # not Keystone's own page of errors
        return error.reason


def main():
    user = dict(name=dict(type="str", required=True), password=dict(type="str", required=True, no_log=True),
                domain_name=dict(type="str", default="Default"), tenant_name=dict(type="str", required=True),
                tenant_domain_id=dict(type="str", default=""), role=dict(type="str", required=True))
    module = AnsibleModule(supports_check_mode=True, argument_spec=dict(
        auth_url=dict(type="str", required=True),
        username=dict(type="str", required=True),
        password=dict(type="str", required=True, no_log=True),
        tenant_name=dict(type="str", default="admin"),
        user_domain_name=dict(type="str", default="Default"),
        project_domain_name=dict(type="str", default="Default"),
        interface=dict(type="str", choices=["public", "internal", "admin"], default="public"),
        region_name=dict(type="str", default=""),
        ca_cert=dict(type="path"),
        validate_certs=dict(type="bool", default=True),
        timeout=dict(type="int", default=30),
        network_interface=dict(type="str", default=""),
        users=dict(type="list", elements="dict", required=True, options=user),
    ))
    keystone = Keystone(module)
    try:
        keystone.login()
        for want in module.params["users"]:
            keystone.ensure(want)
        if module.params["network_interface"]:
            keystone.look_for_network()
    except Refused as error:
        module.fail_json(msg=str(error), changed=bool(keystone.actions), actions=keystone.actions)
    module.exit_json(changed=bool(keystone.actions), actions=keystone.actions)


if __name__ == "__main__":
    main()
