"""Fetches files of a release onto the controller, and believes none of them before it has checked them.

    release.py BASE_URL RELEASE KEYRING UNSIGNED NAME...

BASE_URL/RELEASE is what `make dist` makes, RELEASE a version or "latest". sha256sums says what belongs to the release, sha256sums.asc
signs it, by a key of the file KEYRING; without KEYRING only UNSIGNED=yes goes on. NAMEs are file names or patterns of them.
Prints JSON: {"version": …, "directory": …, "files": {NAME: {"path": …, "sha256": …}}}.
"""

import base64
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request

SMALL, LARGE = 1 << 20, 1 << 30  # a list of files; a file


class Refused(Exception):
    pass


def fetch(url, limit, to):
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            digest, size = hashlib.sha256(), 0
            while chunk := answer.read(1 << 20):
                size += len(chunk)
                if size > limit:
                    raise Refused("skydive_download_base_url: %s is larger than %d MiB" % (url, limit >> 20))
                digest.update(chunk)
                to.write(chunk)
            return digest.hexdigest()
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", None) or error
        raise Refused("skydive_download_base_url: cannot fetch %s: %s" % (url, reason)) from error


def text(url):
    with tempfile.TemporaryFile() as file:
        fetch(url, SMALL, file)
        file.seek(0)
        return file.read()


def keys(path):
    """The content of a keyring as gpgv takes it: not armored."""
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise Refused("skydive_release_keyring: %s" % error) from error
    armored = re.findall(rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:.+\r?\n)*?\r?\n(.*?)\r?\n(?:=\S{4}\s+)?-----END", content, re.S)
    return b"".join(map(base64.b64decode, armored)) or content


def verify(sums, signature, keyring, where):
    with tempfile.TemporaryDirectory() as work:
        files = {name: pathlib.Path(work, name) for name in ("keys", "sums", "signature")}
        files["keys"].write_bytes(keys(keyring))
        files["sums"].write_bytes(sums)
        files["signature"].write_bytes(signature)
        try:
            gpgv = subprocess.run(["gpgv", "--homedir", work, "--status-fd", "1", "--keyring", files["keys"], files["signature"], files["sums"]],
                                  capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise Refused("skydive_release_keyring: gpgv, which checks signatures, is missing on the controller (Debian: gpgv)") from error
    status = {line.split()[1]: line.split()[2:] for line in gpgv.stdout.splitlines() if line.startswith("[GNUPG:] ")}
    if "BADSIG" in status:
        raise Refused("%s/sha256sums.asc is not the signature of sha256sums: the files were changed, or do not belong together" % where)
    if "GOODSIG" not in status:
        other = status.get("NO_PUBKEY") or status.get("ERRSIG") or status.get("EXPKEYSIG") or status.get("REVKEYSIG")
        why = "is by key %s, which is not (or no longer) one of" % other[0] if other else "cannot be read with"
        raise Refused("the signature %s/sha256sums.asc %s skydive_release_keyring" % (where, why))


def listed(sums):
    files = {}
    for line in sums.decode("utf-8", "replace").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64}) [ *]([A-Za-z0-9_][A-Za-z0-9_.+~-]*)", line)
        if match:
            files[match[2]] = match[1]
    return files


def get(url, wanted, path):
    """The file under url, which must have the SHA-256 wanted, as path: from an earlier time if it is still what it should be."""
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == wanted:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        part = pathlib.Path(file.name)
        try:
            digest = fetch(url, LARGE, file)
            if digest != wanted:
                raise Refused("%s has the SHA-256 %s, and the release says %s" % (url, digest, wanted))
            file.flush()
            part.chmod(0o644)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def release(base, name, keyring, unsigned, patterns):
    where = "%s/%s" % (base.rstrip("/"), urllib.parse.quote(name))
    sums = text(where + "/sha256sums")
    if keyring:
        try:
            signature = text(where + "/sha256sums.asc")
        except Refused as error:
            raise Refused("%s; without it the release is not known to be genuine (skydive_release_keyring)" % error) from error
        verify(sums, signature, keyring, where)
    elif unsigned != "yes":
        raise Refused("skydive_release_keyring must name a file with the keys that sign releases; skydive_release_unsigned: true does without")
    files = listed(sums)
    if "VERSION" not in files:
        raise Refused("%s/sha256sums has no VERSION: it is not a release of Skydive" % where)
    content = text(where + "/VERSION")
    if hashlib.sha256(content).hexdigest() != files["VERSION"]:
        raise Refused("%s/VERSION is not the one that the release says" % where)
    version = content.decode("utf-8", "replace").strip()
    # A signature says that it is a release, not which one: an old one in a new one's place would do.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+~-]*", version) or name != "latest" and version.lstrip("v") != name.lstrip("v"):
        raise Refused("skydive_release: %s holds release %s, not %s" % (where, version, name))
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "skydive" / "releases" / version
    found = {}
    for pattern in patterns:
        matching = fnmatch.filter(files, pattern)
        if not matching:
            raise Refused("release %s of %s has no %s" % (version, base, pattern))
        for file in matching:
            get("%s/%s" % (where, urllib.parse.quote(file)), files[file], cache / file)
            found[file] = {"path": str(cache / file), "sha256": files[file]}
    return {"version": version, "directory": str(cache), "files": found}


def main(base, name, keyring, unsigned, *patterns):
    try:
        print(json.dumps(release(base, name, keyring, unsigned, patterns)))
    except Refused as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
