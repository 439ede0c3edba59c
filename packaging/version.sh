#!/bin/sh
# The version of the packages for what "git describe --tags --always --dirty" says: version.sh DESCRIPTION SECONDS-OF-THE-COMMIT
# One form for dpkg and rpm, which sorts as the commits do:
#   v1.2.3-rc1        1.2.3~rc1           before the release
#   v1.2.3            1.2.3
#   v1.2.3-dirty      1.2.3+0.dirty       after it
#   v1.2.3-5-gabcdef  1.2.3+5.gabcdef     after it, before v1.2.4
#   abcdef            0.0.0+20261123101500.gabcdef   no tag yet: by the time of the commit
set -eu
description=$1
dirty=
case $description in *-dirty) dirty=.dirty description=${description%-dirty} ;; esac
count=
hash=$(echo "$description" | sed -n 's/.*-[0-9][0-9]*-\(g[0-9a-f]*\)$/\1/p')
if [ -n "$hash" ]; then
    description=${description%-"$hash"}
    count=${description##*-}
    description=${description%-*}
fi
case $description in
v[0-9]* | [0-9]*.[0-9]*)
    version=$(printf %s "${description#v}" | sed 's/-/~/; s/[^A-Za-z0-9.~+]/./g')
    if [ -n "$count$dirty" ]; then version=$version+${count:-0}${hash:+.$hash}$dirty; fi
    ;;
*[!0-9a-f]* | '')
    echo "version.sh: $1 is neither vN.N.N nor a commit" >&2
    exit 1
    ;;
*)
    version=0.0.0+$(date -u -d "@$2" +%Y%m%d%H%M%S).g$description$dirty
    ;;
esac
echo "$version"
