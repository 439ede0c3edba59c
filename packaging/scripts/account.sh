#!/bin/sh
# The account that the files of this package belong to, before they are unpacked: preinst of the deb, %pre of the rpm.
set -e
getent group skydive >/dev/null || groupadd --system skydive
if ! getent passwd skydive >/dev/null; then
    shell=/usr/sbin/nologin
    [ -x $shell ] || shell=/sbin/nologin
    useradd --system --gid skydive --home-dir /var/lib/skydive --no-create-home --shell $shell --comment Skydive skydive
fi
