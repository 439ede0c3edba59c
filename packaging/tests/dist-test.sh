#!/bin/bash
# A release: two clones give the same bytes, the checksums and their signature hold, and the arm64 binary runs (under qemu-user, on
# loopback). usage: dist-test.sh; uses a throw-away key.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
work=$(mktemp -d)
service=
finish() {
    [ -z "$service" ] || { kill "$service" && wait "$service" || true; } 2>/dev/null
    GNUPGHOME=$work/gnupg gpgconf --kill gpg-agent 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

"$root/.ci/need" git:git gpg:gnupg gpgv:gpgv qemu-aarch64-static:qemu-user-static rpmsign:rpm createrepo_c:createrepo-c \
    checkmodule:checkpolicy semodule_package:semodule-utils bzip2:bzip2 apt-ftparchive:apt-utils
export GNUPGHOME=$work/gnupg
install -d -m 0700 "$GNUPGHOME"
gpg --batch --quiet --no-auto-check-trustdb --pinentry-mode loopback --passphrase '' --quick-generate-key 'Skydive tests <tests@skydive.invalid>' rsa3072 sign never
SKYDIVE_SIGNING_KEY=$(gpg --batch --with-colons --list-keys | awk -F: '$1 == "fpr" { print $10; exit }')
export SKYDIVE_SIGNING_KEY
gpg --batch --export "$SKYDIVE_SIGNING_KEY" >"$work/keyring.gpg"

for clone in a b; do
    git -c safe.directory='*' clone -q "$root" "$work/$clone"
    make --no-print-directory -s -C "$work/$clone" dist >"$work/$clone.log" 2>&1 || { tail -n 20 "$work/$clone.log"; fail "make dist"; }
done
# Signatures tell the time. That of an RPM stands in the RPM itself, whose header and payload are compared.
(cd "$work/a/build/dist" && for f in *.rpm; do
    for clone in a b; do rpm -qp --nosignature --qf '%{NAME} %{SHA256HEADER} %{PAYLOADDIGEST}\n' "$work/$clone/build/dist/$f" >"$work/$clone.rpm" 2>/dev/null; done
    grep -q '[0-9a-f]\{64\}' "$work/a.rpm" && cmp -s "$work/a.rpm" "$work/b.rpm" || fail "$f differs between two builds"
done)
diff -rq -x '*.rpm' -x '*.asc' -x '*.gpg' -x InRelease -x repodata -x sha256sums "$work/a/build/dist" "$work/b/build/dist" || fail "two builds differ"
echo "ok: two builds of one commit are equal"

cd "$work/a/build/dist"
sha256sum --quiet -c sha256sums
gpgv --quiet --keyring "$work/keyring.gpg" sha256sums.asc sha256sums 2>"$work/gpgv.log" || fail "$(cat "$work/gpgv.log")"
for f in *; do case $f in sha256sums*) ;; *) [ -d "$f" ] || grep -qF "  $f" sha256sums || fail "sha256sums does not have $f" ;; esac; done
echo "ok: every file is in sha256sums, which is signed"

# etcd takes a port and the next one.
port=$(python3 - <<'PYTHON'
import socket
for port in range(20000, 30000, 3):
    sockets = [socket.socket() for _ in range(3)]
    try:
        for i, s in enumerate(sockets):
            s.bind(("127.0.0.1", port + i))
        print(port)
        break
    except OSError:
        continue
    finally:
        for s in sockets:
            s.close()
PYTHON
)
printf 'analyzer:\n  listen: 127.0.0.1:%s\netcd:\n  listen: 127.0.0.1:%s\n  data_dir: %s\n' "$port" $((port + 1)) "$work/state" >"$work/skydive.yml"
qemu-aarch64-static ./skydive-linux-arm64 analyzer --conf "$work/skydive.yml" >"$work/arm64.log" 2>&1 &
service=$!
end=$((SECONDS + 60))
until qemu-aarch64-static ./skydive-linux-arm64 health --address "127.0.0.1:$port" >/dev/null 2>&1; do
    kill -0 $service 2>/dev/null && [ $SECONDS -lt $end ] || { tail -n 20 "$work/arm64.log"; fail "the arm64 analyzer does not get well"; }
    read -rt 0.3 <> <(:) || true
done
answer=$(qemu-aarch64-static ./skydive-linux-arm64 client --analyzer "127.0.0.1:$port" query 'G.V().Count()')
[ "$answer" = 0 ] || fail "the arm64 analyzer answers $answer"
echo "ok: the arm64 analyzer runs and answers"
