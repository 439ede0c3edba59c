#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Run a command beside a real OpenStack: beside.py go test -tags openstack ./src/probe/neutron

It runs in a host of the deployment tests' lab (testbed.py). The environment tells the command where it is, SKYDIVE_TEST_OPENSTACK_…:

    AUTH_URL USERNAME PASSWORD PROJECT USER_DOMAIN PROJECT_DOMAIN REGION   of the administrator; the URL ends in /v3
    SHORT_AUTH_URL                                                         the same Keystone, whose tokens are good for 15 seconds
    MEMBER_USERNAME MEMBER_PASSWORD MEMBER_PROJECT                         a user without any administrator's right
    STOP_KEYSTONE START_KEYSTONE, …_NEUTRON, …_HEAT                        shell commands
    LOAD UNLOAD                                                            shell commands: 2,000 ports on the network load, and none
    SHELL                                                                  what runs the shell command that follows it, on that host
    NETWORK_PRIVATE NETWORK_PUBLIC SUBNET_PRIVATE_V4 SUBNET_PRIVATE_V6     ids of what there is in Neutron; VNI is that of the
    ROUTER_ROUTER1 PORT_VM1 PORT_VM2 PORT_DHCP FLOATINGIP                  network private
    STACK                                                                  in Heat, with the outputs of TripleO and the hosts of ROLES
    ADDRESS                                                                of that host, where Neutron is at port 9696, Heat at 8004

DOCKER_HOST is the lab's daemon, so that the command may start hosts of its own beside it.
"""

import os
import subprocess
import sys
import threading
import time

import testbed
from testbed import lab

ROLES = {"Controller": {"overcloud-controller-0": "192.168.24.10"},
         "Compute": {"overcloud-novacompute-0": "192.168.24.20", "overcloud-novacompute-1": "192.168.24.21"}}


def main(command):
    if not command:
        sys.exit(__doc__)
    lab.needs()
    with lab.Lab("openstack") as here:
        host = here.host("openstack", testbed.KIND)
        begin = time.monotonic()
        # As TripleO spells it.
        cloud = testbed.OpenStack(host, "regionOne")
        cloud.start()
        cloud.serve("keystone-short")
        cloud.start_neutron()
        cloud.start_heat()
        cloud.tripleo(ROLES)
        cloud.ready("keystone-short")
        # What the hypervisors of a test boot from is made, where it is missing, while other tests run.
        threading.Thread(target=lab.daemon().image, args=(testbed.COMPUTE,), daemon=True).start()
        lab.say("OpenStack is there after %.0f s" % (time.monotonic() - begin))
        environ = {**os.environ, "DOCKER_HOST": lab.daemon().address, **cloud.environment()}
        return subprocess.run(command, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
