#!/bin/sh
# Names the packages to deploy: packages.sh CHECKOUT|DIRECTORY FORMAT/MACHINE...   (deb/x86_64, rpm/aarch64, …)
# A checkout means its build/packages, made when they are missing or older than HEAD; "built" is printed then.
# Prints "FORMAT/MACHINE NAME VERSION SHA256 FILE" for each package. With SKYDIVE_CHECK set nothing is built (ansible --check).
set -eu
fail() { echo "$*" >&2; exit 1; }
[ -d "$1" ] || fail "skydive_package_location: $1 is no directory of the controller"
cd "$1"
shift
checkout=
[ -x packaging/packages.sh ] && checkout=$PWD
# FORMAT/MACHINE NAME → pattern of the file's name
pattern() {
    case $1 in
    deb/x86_64) echo "$2_*_amd64.deb" ;;
    deb/aarch64) echo "$2_*_arm64.deb" ;;
    rpm/*) echo "$2-[0-9]*.${1#rpm/}.rpm" ;;
    *) echo "$2_*_${1#deb/}.deb" ;;
    esac
}
fresh() { # for this FORMAT/MACHINE
    description=$(git -c safe.directory='*' describe --tags --always 2>/dev/null) || return 0
    version=$(packaging/version.sh "$description" "$(git -c safe.directory='*' log -1 --format=%ct)")
    # Uncommitted work is the developer's business: only the commit is compared.
    for file in build/packages/$(pattern "$1" skydive); do
        case ${file##*/} in "skydive"[_-]"$version"-* | "skydive"[_-]"$version.dirty-"* | "skydive"[_-]"$version+0.dirty-"*) return 0 ;; esac
    done
    return 1
}
if [ -n "$checkout" ]; then
    for kind; do
        if [ -n "${SKYDIVE_CHECK:-}" ] || fresh "$kind"; then continue; fi
        [ "${kind#*/}" = "$(uname -m)" ] || fail "build/packages has no current packages for ${kind#*/}, and this controller makes those" \
            "of $(uname -m): make packages, or set skydive_package_location or skydive_release"
        PATH=$PATH:/usr/local/go/bin
        for tool in go make dpkg-deb; do
            command -v $tool >/dev/null || fail "build/packages is missing or older than HEAD, and $tool, which helps to make it, is not here:" \
                "install it, or set skydive_package_location to file:///directory or to a repository"
        done
        owner=$(stat -c %U .)
        if [ "$(id -u)" = 0 ] && [ "$owner" != root ]; then # sudo ansible-playbook: leave no file of root's in the checkout
            runuser -u "$owner" -- env HOME="$(getent passwd "$owner" | cut -d: -f6)" make -s packages >&2
        else
            make -s packages >&2
        fi
        echo built
    done
    cd build/packages 2>/dev/null || fail "build/packages does not exist: make packages, or set skydive_package_location"
fi
for kind; do
    for name in skydive skydive-analyzer skydive-agent; do
        # shellcheck disable=SC2046 # a pattern: its words are files
        set -- $(pattern "$kind" "$name")
        [ $# -le 1 ] || fail "$PWD holds several versions of one package: $*"
        [ -f "$1" ] || fail "skydive_package_location: $PWD holds no package $name for ${kind#*/} hosts ($1)"
        version=${1#"$name"[_-]}
        case $1 in *.deb) version=${version%_*} ;; *) version=${version%.*.rpm} ;; esac
        echo "$kind $name $version $(sha256sum <"$1" | cut -d' ' -f1) $PWD/$1"
    done
done
