#!/bin/sh
# Names the container image to load: prints "built" when it was made anew, and the archive's manifest.
# usage: image.sh CHECKOUT   build/images/skydive.tar of a checkout, made when it is missing or older than HEAD
#        image.sh FILE       an archive as "docker save" or "podman save" write it
# With SKYDIVE_CHECK set nothing is built, but said (ansible --check); an archive that is not there then has no manifest.
set -eu
fail() { echo "$*" >&2; exit 1; }
# A line each: what docker load reads, and, where it is there, what engines that keep manifests read.
manifest() {
    tar -xOf "$1" manifest.json 2>/dev/null | tr -d '\n' | grep . || return
    tar -xOf "$1" index.json 2>/dev/null | tr -d '\n' || true
}

if [ ! -d "$1" ]; then
    [ -f "$1" ] || fail "skydive_load_docker_image: $1 does not exist on the controller"
    manifest "$1" || fail "skydive_load_docker_image: $1 is no archive of docker save or podman save"
    exit
fi
cd "$1"
archive=build/images/skydive.tar
tag=$(git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null | tr -c 'A-Za-z0-9_.\n-' - || true)
# The commit tells; of uncommitted work, the time of the binary. (Go renews that time even when it has nothing to build.)
stale() {
    case "$(manifest $archive)" in '') return 0 ;; *":$tag\""*) ;; *) [ -n "$tag" ]; return ;; esac
    case $tag in *-dirty) [ -n "$(find build/skydive -newer $archive 2>/dev/null)" ] ;; *) return 1 ;; esac
}
if stale && [ -n "${SKYDIVE_CHECK:-}" ]; then
    echo built
elif stale; then
    PATH=$PATH:/usr/local/go/bin
    # shellcheck disable=SC2015
    [ -f Makefile ] && command -v go >/dev/null && command -v make >/dev/null || fail "$archive is missing or older than HEAD, and there is" \
        "no source tree with Go and make here to make it: install them, or set skydive_load_docker_image to file:///path, or skydive_docker_registry"
    before=$(sha256sum $archive 2>/dev/null || true)
    owner=$(stat -c %U .)
    if [ "$(id -u)" = 0 ] && [ "$owner" != root ]; then # sudo ansible-playbook: leave no file of root's in the checkout
        runuser -u "$owner" -- env HOME="$(getent passwd "$owner" | cut -d: -f6)" make -s images >&2
    else
        make -s images >&2
    fi
    [ "$before" = "$(sha256sum $archive)" ] || echo built
fi
manifest $archive || [ -n "${SKYDIVE_CHECK:-}" ] || fail "$archive does not exist: make images"
