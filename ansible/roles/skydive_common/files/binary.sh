#!/bin/sh
# Names the binary to deploy: prints "built" when it was built anew, and its SHA-256.
# usage: binary.sh CHECKOUT [SHA256]   build/skydive of a checkout, built when it is missing or older than HEAD
#        binary.sh FILE [SHA256]       a binary as it is
# A binary that is not the SHA-256 given is refused. With SKYDIVE_CHECK set nothing is built (ansible --check).
set -eu
fail() { echo "$*" >&2; exit 1; }
sum() { sha256sum "$1" 2>/dev/null | cut -d' ' -f1; }
wanted=${2:-}
answer() {
    is=$(sum "$1")
    [ "${wanted:-$is}" = "$is" ] || fail "skydive_binary_checksum: the SHA-256 of $1 is $is"
    echo "$is"
}

if [ ! -d "$1" ]; then
    [ -f "$1" ] || fail "skydive_binary_remote_location: $1 does not exist on the controller"
    answer "$1"
    exit
fi
cd "$1"
binary=build/skydive
head=$(git -c safe.directory='*' describe --tags --always 2>/dev/null || true)
stale() {
    [ -x $binary ] || return 0
    # Uncommitted work is the developer's business (make up builds always): only the commit is compared.
    case "$(./$binary version 2>/dev/null)" in *" ${head:-}" | *" ${head:-}-dirty") return 1 ;; esac
    [ -n "$head" ]
}
if stale && [ -z "${SKYDIVE_CHECK:-}" ]; then
    PATH=$PATH:/usr/local/go/bin
    if [ ! -f Makefile ] || ! command -v go >/dev/null || ! command -v make >/dev/null; then
        fail "$PWD/$binary is missing or older than HEAD, and there is no Go, make or source here to build it: install them, or set" \
            "skydive_binary_remote_location to file:///path or https://…, or skydive_release"
    fi
    before=$(sum $binary || true)
    owner=$(stat -c %U .)
    if [ "$(id -u)" = 0 ] && [ "$owner" != root ]; then # sudo ansible-playbook: leave no file of root's in the checkout
        runuser -u "$owner" -- env HOME="$(getent passwd "$owner" | cut -d: -f6)" make -s build >&2
    else
        make -s build >&2
    fi
    [ "$before" = "$(sum $binary)" ] || echo built
fi
[ -x $binary ] || fail "$binary does not exist: make build"
answer $binary
