"""Runs the deployment tests, two classes at a time, each in a process and a lab of its own; prints what the rows of the matrix found.

usage: run.py [--all] [--record] [NAME...]   NAME: test_module or test_module.Class; without one, every class
--all: every row and class, else the short slice. --record: the table goes into docs/deployment.md.
"""

import argparse
import concurrent.futures
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

import lab
import matrix

HERE = pathlib.Path(__file__).resolve().parent
DOCUMENT = lab.ROOT / "docs" / "deployment.md"
BEGIN, END = "<!-- results: written by make deploy-test-all RECORD=yes -->\n", "<!-- end of results -->\n"
WORKERS = 2
LIMIT = 75 * 60  # seconds for one class


def names(wanted, everything):
    """Classes to run, the long ones of the matrix first."""
    found = []
    for path in sorted(HERE.glob("test_*.py"), key=lambda path: (path.stem != "test_matrix", path.stem)):
        module = importlib.import_module(path.stem)
        for name, case in vars(module).items():
            if not (isinstance(case, type) and issubclass(case, unittest.TestCase) and case.__module__ == path.stem):
                continue
            if not unittest.defaultTestLoader.getTestCaseNames(case) or not (everything or wanted or getattr(case, "SHORT", True)):
                continue
            full = "%s.%s" % (path.stem, name)
            if not wanted or path.stem in wanted or full in wanted:
                found.append(full)
    return found


def one(name):
    """The child: runs a class and adds its counts to the results."""
    result = unittest.TextTestRunner(verbosity=2).run(unittest.defaultTestLoader.loadTestsFromName(name))
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    skipped = len(result.skipped)
    if skipped and os.environ.get("SKYDIVE_CI"):
        failed, skipped = failed + skipped, 0
    # What failed before its first test has run none.
    add({"class": name, "passed": max(result.testsRun - failed - skipped, 0), "failed": failed, "skipped": skipped})
    return not failed


def add(result):
    with open(os.environ["SKYDIVE_DEPLOY_RESULTS"], "a") as file:
        file.write(json.dumps(result) + "\n")


def child(name, directory):
    begin = time.monotonic()
    with open(os.path.join(directory, name), "w+") as log:
        process = subprocess.Popen([sys.executable, "-B", __file__, "--one", name], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            log.write("\n%s takes longer than %d s\n" % (name, LIMIT))
            process.terminate()
            process.wait(120)
        log.seek(0)
        return name, process.returncode, time.monotonic() - begin, log.read()


def platform(row):
    return ", ".join(filter(None, [row["os"], row["engine"]]))


def table(rows):
    head = ["inventory", "mode", "hosts", "authentication", "platform", "ansible-core", "first run", "second run", "outcome"]
    lines = ["| %s |" % " | ".join(head), "|" + "---|" * len(head)]
    for row in rows:
        seconds = ["%.0f s" % row[key] if key in row else "" for key in ("first", "second")]
        lines.append("| %s |" % " | ".join([
            "`%s`" % row["inventory"] if row["inventory"] else "made by the test", row["mode"], row["topology"], row["auth"], platform(row),
            row.get("ansible", ""), *seconds, row["outcome"]]))
    return "\n".join(lines) + "\n"


def record(text):
    head, rest = DOCUMENT.read_text().split(BEGIN)
    DOCUMENT.write_text(head + BEGIN + text + END + rest.split(END)[1])


def main():
    parser = argparse.ArgumentParser()
    for flag in ("--all", "--record"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--one")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    if arguments.one:
        return one(arguments.one)
    lab.needs()
    os.environ["SKYDIVE_DEPLOY"] = "all" if arguments.all else "short"
    os.environ["DOCKER_HOST"] = lab.daemon().address  # the children share it
    begin = time.monotonic()
    found = []
    with tempfile.TemporaryDirectory(prefix="skydive-deploy-") as directory:
        os.environ["SKYDIVE_DEPLOY_RESULTS"] = os.path.join(directory, "results")
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            for future in concurrent.futures.as_completed([pool.submit(child, name, directory) for name in names(arguments.names, arguments.all)]):
                name, code, seconds, log = future.result()
                print("=== %s: %s after %.0f s\n%s" % (name, "failed" if code else "passed", seconds, log), flush=True)
                found.append((name, code, seconds))
        with open(os.environ["SKYDIVE_DEPLOY_RESULTS"], "a+") as file:
            file.seek(0)
            results = [json.loads(line) for line in file]
    counts = {result["class"]: result for result in results if "class" in result}
    passed = sum(count["passed"] for count in counts.values())
    # A class that could not even tell has failed.
    failed = sum(counts[name]["failed"] if name in counts else 1 for name, _, _ in found)
    order = [row.name for row in matrix.rows()]
    rows = sorted((result for result in results if "row" in result), key=lambda row: order.index(row["row"]))
    if rows:
        print(table(rows))
    if arguments.record and not failed:
        record(table(rows))
    for name, code, seconds in found:
        print("%5.0f s  %s%s" % (seconds, name, ", FAILED" if code else ""))
    print("%5.0f s  in all, %d at a time" % (time.monotonic() - begin, WORKERS))
    print("deploy-test: %d passed, %d failed, %d skipped" % (passed, failed, sum(count["skipped"] for count in counts.values())))
    return found and not failed


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
