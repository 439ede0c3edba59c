#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Run a command beside a real Keystone: beside.py go test ./src/auth/keystone

Keystone runs in a host of the deployment tests' lab, with their set-up. The environment tells the command where it is:

    SKYDIVE_TEST_KEYSTONE           its URL
    SKYDIVE_TEST_KEYSTONE_SHORT     the same Keystone, whose tokens are good for some seconds only
    SKYDIVE_TEST_KEYSTONE_PASSWORD  of the user admin, in the project admin
    SKYDIVE_TEST_KEYSTONE_STOP      shell commands that kill it and start it again
    SKYDIVE_TEST_KEYSTONE_START
"""

import os
import pathlib
import shlex
import subprocess
import sys
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[4] / "ansible" / "tests" / "deploy"))
sys.dont_write_bytecode = True

import keystone  # noqa: E402
import lab  # noqa: E402

# Passwords that are cheap to check, and a second configuration whose tokens are soon over.
CONFIGURE = r"""
set -e
printf '[identity]\npassword_hash_rounds = 4\n' >>/etc/keystone/keystone.conf
sed 's/^provider = fernet/&\nexpiration = 15/' /etc/keystone/keystone.conf >/etc/keystone/short.conf
"""
# Killed, and not there any more, not even as failed, when the command is over.
STOP = "systemctl kill -s KILL keystone-test; systemctl stop keystone-test; systemctl reset-failed keystone-test 2>/dev/null || true"
SERVE = "systemd-run --quiet --collect --unit keystone-{name} --uid keystone --gid keystone " \
        "--setenv OS_KEYSTONE_CONFIG_FILES=/etc/keystone/{file}.conf keystone-wsgi-public --host {address} --port {port}"


def answers(url):
    try:
        return urllib.request.urlopen(url + "/v3", timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


def main(command):
    if not command:
        sys.exit(__doc__)
    lab.needs()
    with lab.Lab("openstack") as here:
        host = here.host("keystone", "bookworm-keystone")
        keystone.start(host)
        host.run(STOP)
        host.run(CONFIGURE)
        start = SERVE.format(name="test", file="keystone", address=host.address, port=5000)
        host.run(start)
        host.run(SERVE.format(name="short", file="short", address=host.address, port=5001))
        urls = ["http://%s:%d" % (host.address, port) for port in (5000, 5001)]
        for url in urls:
            lab.wait(lambda url=url: answers(url), 60, "an answer of Keystone at " + url)
        inside = ["docker", "-H", lab.daemon().address, "exec", host.container, "sh", "-c"]
        return subprocess.run(command, env={
            **os.environ, "SKYDIVE_TEST_KEYSTONE": urls[0], "SKYDIVE_TEST_KEYSTONE_SHORT": urls[1],
            "SKYDIVE_TEST_KEYSTONE_PASSWORD": keystone.PASSWORD,
            "SKYDIVE_TEST_KEYSTONE_STOP": shlex.join([*inside, STOP]),
            "SKYDIVE_TEST_KEYSTONE_START": shlex.join([*inside, start]),
        }, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
