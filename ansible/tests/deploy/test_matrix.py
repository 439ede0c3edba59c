"""Each row of the matrix is a test; rows that want the same kind of hosts share them, so a reset has to leave them clean.

$SKYDIVE_DEPLOY=all has every row, else the short slice is all.
"""

import os
import re
import unittest

import lab
import matrix
import testbed


class Matrix(lab.Case):
    KIND, COUNT, KEYSTONE = "bookworm", 1, False

    @classmethod
    def setUpClass(cls):
        cls.lab = lab.Lab(cls.__name__.lower())
        cls.addClassCleanup(cls.lab.close)
        # The checkout is there for the inventories that say localhost.
        mounts = ["%s:/skydive:ro" % lab.ROOT] * cls.KIND.endswith("-controller")
        cls.all = [cls.lab.host("h%d" % number, cls.KIND, mounts, wait_for=False) for number in range(1, cls.COUNT + 1)]
        for host in cls.all:
            lab.wait(host.booted, 90, "boot of " + host.name)
        if cls.KEYSTONE:
            cloud = testbed.OpenStack(cls.lab.host("openstack", testbed.KIND))
            cloud.start()
            cloud.start_neutron()
            cls.keystone = cloud.url


def classes(everything):
    """A class for each kind of hosts."""
    rows = [row for row in matrix.rows() if everything or row.short]
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind]
        tests = {"test_%02d_%s" % (number, re.sub(r"\W+", "_", row.name)): lambda self, row=row: matrix.Course(self, row, self.all).run()
                 for number, row in enumerate(mine, 1)}
        yield type("Matrix" + "".join(word.capitalize() for word in kind.split("-")), (Matrix,), {
            **tests, "__module__": __name__, "KIND": kind, "KEYSTONE": any(row.auth == "keystone" for row in mine), "COUNT": max(max(matrix.TOPOLOGIES[row.topology]) for row in mine)})


globals().update({case.__name__: case for case in classes(os.environ.get("SKYDIVE_DEPLOY") == "all")})

if __name__ == "__main__":
    unittest.main()
