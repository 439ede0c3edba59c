#!/bin/sh
# Looks at a host before anything is touched: look.sh BINARY USER:GROUP ADDRESS:PORT...
# Prints "capbnd HEX", the capabilities that the host can give; "binary SHA256", the installed binary; "account UID:GID" when the
# system user is there; "systemd" when that runs the services; and "taken …" for each wanted address that somebody else holds.
# For each of SKYDIVE_DIRECTORIES that there is: "directory OWNER:GROUP MODE PATH".
# Where the socket SKYDIVE_OVSDB is, or Open vSwitch is installed: "openvswitch MODE OWNER GID", of the socket if it is there.
# With SKYDIVE_MODE=container also "engine NAME VERSION" (no version: it does not answer), "image ENGINE NAME:TAG ID NAME@DIGEST",
# "container ENGINE IMAGE-ID PID" for those of ours, "quadlet" when systemd understands container files, "selinux" when that is on,
# and "authorities DIRECTORY" with the certificates that the system trusts.
sed -n 's/^CapBnd:[[:space:]]*/capbnd /p' /proc/self/status
[ -x "$1" ] && echo "binary $(sha256sum <"$1" | cut -d' ' -f1)"
[ "${2%%:*}:$(id -gn "${2%%:*}" 2>/dev/null)" = "$2" ] && echo "account $(id -u "${2%%:*}"):$(id -g "${2%%:*}")"
[ -d /run/systemd/system ] && echo systemd
for directory in $SKYDIVE_DIRECTORIES; do
    [ ! -d "$directory" ] || stat -L -c 'directory %U:%G %a %n' "$directory"
done
if [ -S "${SKYDIVE_OVSDB:-}" ]; then
    stat -L -c 'openvswitch %a %U %g' "$SKYDIVE_OVSDB"
elif [ -n "${SKYDIVE_OVSDB:-}" ] && command -v ovs-vswitchd >/dev/null; then
    echo openvswitch
fi
directories="$(dirname "$1") /usr/bin /var /var/cache /etc"
shift 2
# What is installed, in whatever mode: "mode SERVICE MODE", "package NAME VERSION" ("residue NAME": all but its files of /etc is gone),
# "cached NAME SHA256" of the files that the packages came from, "outdated SERVICE" of one that runs what is there no more, and
# "space KIB DIRECTORY".
packages=
if command -v dpkg-query >/dev/null; then
    # shellcheck disable=SC2016 # the fields are dpkg's
    packages=$(dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' skydive skydive-analyzer skydive-agent 2>/dev/null |
        sed -n 's/^installed /package /p; s/^config-files \([^ ]*\).*/residue \1/p')
elif command -v rpm >/dev/null; then
    packages=$(rpm -q --qf 'package %{NAME} %{VERSION}-%{RELEASE}\n' skydive skydive-analyzer skydive-agent | grep '^package skydive.* [^ ]*-')
fi
[ -z "$packages" ] || echo "$packages"
for file in /var/cache/skydive/*.deb /var/cache/skydive/*.rpm; do
    [ ! -f "$file" ] || echo "cached $(basename "${file%.*}") $(sha256sum <"$file" | cut -d' ' -f1)"
done
for service in analyzer agent; do
    unit=/etc/systemd/system/skydive-$service.service
    if [ -e "/etc/containers/systemd/skydive-$service.container" ] || grep -Eqs '(docker|podman) run' "$unit"; then
        echo "mode $service container"
    elif [ -e "$unit" ]; then
        echo "mode $service binary"
    fi
    if [ -d /run/systemd/system ]; then pid=$(systemctl show -P MainPID "skydive-$service"); else pid=$(cat "/run/skydive-$service.pid"); fi 2>/dev/null
    case $(readlink "/proc/${pid:-0}/exe") in *' (deleted)') echo "outdated $service" ;; esac
    case "$packages" in
    *"package skydive-$service "*) echo "mode $service package" ;;
    *) [ ! -x "/etc/init.d/skydive-$service" ] || [ -d /run/systemd/system ] || echo "mode $service binary" ;;
    esac
done
# shellcheck disable=SC2086
df -Pk $directories | awk -v names="$directories" 'BEGIN { split(names, name) } NR > 1 { print "space", $4, name[NR - 1] }'
# Container engines cost time: they are asked in container mode, and where a service of ours is a container already.
containers=
if [ "${SKYDIVE_MODE:-}" = container ] ||
    grep -Eqs '(docker|podman) run|^ContainerName=' /etc/systemd/system/skydive-*.service /etc/containers/systemd/skydive-*.container; then
    [ -e /sys/fs/selinux/enforce ] && echo selinux
    for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem; do
        [ -f $file ] && echo "authorities ${file%/*}"
    done
    [ -x /usr/lib/systemd/system-generators/podman-system-generator ] && echo quadlet
    host=$(uname -n | cut -d. -f1)
    for engine in docker podman; do
        case $engine:$(command -v $engine >/dev/null && $engine --version) in
        docker:Docker*) echo "engine docker $(timeout 20 docker version --format '{{.Server.Version}}' 2>/dev/null)" ;;
        podman:podman*) echo "engine podman $(podman --version | sed 's/.* //')" ;;
        *) continue ;; # not here, or podman under the name of docker
        esac
        $engine images --no-trunc --format 'image '$engine' {{.Repository}}:{{.Tag}} {{.ID}} {{.Repository}}@{{.Digest}}' 2>/dev/null
        containers="$containers$($engine inspect --format 'container '$engine' {{.Image}} {{.State.Pid}}' \
            "skydive-analyzer-$host" "skydive-agent-$host" 2>/dev/null)
"
    done
    printf %s "$containers"
fi
command -v ss >/dev/null || exit 0 # then the service itself says who holds its port
ours() {
    grep -Eqs '/skydive-(analyzer|agent)\.service' "/proc/$1/cgroup" && return
    echo "$containers" | grep -q " $1\$" && return
    cat /run/skydive-analyzer.pid /run/skydive-agent.pid 2>/dev/null | grep -qx "$1"
}
for want; do
    ss -Hltnp "sport = :${want##*:}" | while read -r _ _ _ have _ users; do
        case ${want%:*} in 0.0.0.0 | '[::]' | "${have%:*}") ;; *)
            case ${have%:*} in 0.0.0.0 | '*' | '[::]') ;; *) continue ;; esac ;;
        esac
        pid=${users#*pid=} pid=${pid%%,*}
        [ -n "$pid" ] && ours "$pid" && continue
        echo "taken $have is held by process ${pid:-unknown}: $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline")"
    done
done
