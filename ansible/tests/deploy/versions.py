"""Two versions of the product to go from one to the other, made from this checkout."""

import lab

OLD, NEW = "v0.29.0", "v0.30.0"
SERVICES = ("skydive-analyzer", "skydive-agent")


def make(work, version):
    """Binary and packages of a version, as `make dist` leaves them; the directory is a repository too."""
    directory = work / version
    directory.mkdir()
    variables = ["VERSION=" + version, "BINARY=%s" % (directory / "skydive-linux-amd64"), "PACKAGES_DIR=%s" % directory]
    for target in ("build", "packages"):
        lab.run(["make", "-s", target, *variables], cwd=lab.ROOT, timeout=580)
    (directory / "VERSION").write_text(version + "\n")
    return directory


def running(host, *services):
    """What version each service runs, by the program that its process is."""
    return {name: host.output("/proc/%d/exe version" % host.pid(name)).split()[-1] for name in services}
