"""The roles' variables have one truth: specification, defaults, documentation and the words of the contract agree."""

import pathlib
import re
import unittest

import variables
import yaml

ROOT = variables.ROLE.parent.parent.parent
MODULES = {path.stem for path in (ROOT / "ansible" / "library").glob("*.py")}

# The variables that users of the public roles know: none may disappear.
PUBLIC = """
skydive_topology_probes skydive_fabric skydive_etcd_embedded skydive_etcd_port skydive_etcd_servers skydive_analyzer_port
skydive_analyzer_ip skydive_deployment_mode skydive_auth_type skydive_basic_auth_file skydive_username skydive_password
skydive_config_file skydive_flow_protocol skydive_extra_config skydive_nic os_auth_url os_username os_password os_tenant_name
os_domain_name os_user_domain_name os_project_domain_name os_endpoint_type os_identity_api_version skydive_sys_username
skydive_sys_groupname skydive_os_auth_url skydive_os_service_user_role skydive_os_service_username skydive_os_service_password
skydive_os_service_tenant_name skydive_os_service_domain_name skydive_os_service_region_name skydive_os_service_endpoint_type
skydive_os_service_insecure skydive_auth_os_tenant_name skydive_auth_os_domain_name skydive_auth_os_domain_id
skydive_container_cli skydive_docker_registry skydive_analyzer_docker_image skydive_analyzer_docker_image_tag
skydive_analyzer_docker_command skydive_agent_docker_image skydive_agent_docker_image_tag skydive_agent_docker_command
skydive_iptables_rules skydive_release skydive_binary_location skydive_binary_remote_location skydive_package_location
skydive_load_docker_image skydive_deployment_source skydive_deployment_test skydive_listen_ip skydive_agent_ip skydive_agent_port
skydive_auto_fabric skydive_fabric_default_interface skydive_fabric_default_tor_name skydive_fabric_default_tor_mtu
skydive_etcd_scheme skydive_cluster_username skydive_cluster_password skydive_auth_os_user_role validate_certs
skydive_docker_image_tag skydive_analyzer_docker_extra_env skydive_agent_docker_extra_env
""".split()


class Variables(unittest.TestCase):
    def test_defaults_are_the_specified_ones(self):
        self.assertEqual(variables.defaults(), {name: option["default"] for name, option in variables.options().items()})

    def test_each_is_described(self):
        for name, option in variables.options().items():
            self.assertIn("description", option, name)
            self.assertIn("type", option, name)

    def test_public_names_are_kept(self):
        self.assertEqual(set(PUBLIC) - set(variables.options()), set())

    def test_documentation_has_the_table(self):
        text = (ROOT / "docs" / "deployment.md").read_text()
        self.assertEqual(text, variables.document(text), "make generate")

    def test_nothing_is_read_that_is_not_specified(self):
        known = set(variables.options()) | {"skydive_config", "skydive_reset_data", "skydive_upgrade_batch"}
        filters = set(re.findall(r'"(skydive_\w+)":', (variables.ROLE / "filter_plugins" / "skydive.py").read_text()))
        roles = {"skydive_common", "skydive_analyzer", "skydive_agent"}
        for path in sorted((ROOT / "ansible").rglob("*.yml")) + sorted((ROOT / "ansible").rglob("*.j2")):
            if path.name in ("argument_specs.yml", "main.yml") and path.parent.name == "meta":
                continue
            names = set(re.findall(r"(?<![\w/])skydive_\w+\b(?<!_)", path.read_text()))
            self.assertEqual(names - known - filters - roles - MODULES, set(), path)

    def test_every_specified_one_is_read(self):
        text = "".join(path.read_text() for path in sorted((ROOT / "ansible" / "roles").rglob("*.yml"))
                       if path.parent.name not in ("meta", "defaults"))
        unread = {name for name in variables.options() if not re.search(r"\b%s\b" % name, text)}
        self.assertEqual(unread, {"skydive_deployment_source"}, "which never had an effect")

    def test_every_one_is_tested(self):
        """Each stands in a test of its effect: offline, or on a host."""
        text = "".join(path.read_text() for path in sorted((ROOT / "ansible" / "tests").rglob("test_*.py")) if path != pathlib.Path(__file__).resolve())
        text += (ROOT / "ansible" / "tests" / "deploy" / "matrix.py").read_text()
        self.assertEqual({name for name in variables.options() if not re.search(r"\b%s\b" % name, text)}, {"skydive_deployment_source"})

    def test_inventories_use_known_variables(self):
        for path in sorted((ROOT / "inventory").iterdir()):
            names = set(re.findall(r"^#? ?(skydive_\w+)=", path.read_text(), re.M))
            self.assertEqual(names - set(variables.options()), set(), path)

    def test_only_builtin_modules(self):
        """A bare ansible-core must do, with what we bring ourselves."""
        keywords = {"name", "when", "tags", "register", "notify", "loop", "loop_control", "vars", "block", "rescue", "no_log", "run_once",
                    "delegate_to", "delegate_facts", "check_mode", "changed_when", "failed_when", "until", "retries", "delay", "become",
                    "environment", "listen", "any_errors_fatal", "always", "throttle", "ignore_unreachable", "diff"}

        def modules(tasks):
            for task in tasks:
                for key in task:
                    if key in ("block", "rescue"):
                        yield from modules(task[key])
                    elif key not in keywords:
                        yield key

        for path in sorted((ROOT / "ansible" / "roles").glob("*/*/*.yml")):
            if path.parent.name in ("tasks", "handlers"):
                for module in modules(yaml.safe_load(path.read_text())):
                    self.assertTrue(module.startswith("ansible.builtin.") or module in MODULES, "%s in %s" % (module, path))


if __name__ == "__main__":
    unittest.main()
