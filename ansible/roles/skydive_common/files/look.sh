#!/bin/sh
# Looks at a host before anything is touched: look.sh BINARY USER:GROUP ADDRESS:PORT...
# Prints "capbnd HEX", the capabilities that the host can give; "binary SHA256", the installed binary; "account" when the
# system user is there; "systemd" when that runs the services; and "taken …" for each wanted address that somebody else holds.
sed -n 's/^CapBnd:[[:space:]]*/capbnd /p' /proc/self/status
[ -x "$1" ] && echo "binary $(sha256sum <"$1" | cut -d' ' -f1)"
[ "${2%%:*}:$(id -gn "${2%%:*}" 2>/dev/null)" = "$2" ] && echo account
[ -d /run/systemd/system ] && echo systemd
shift 2
command -v ss >/dev/null || exit 0 # then the service itself says who holds its port
ours() {
    grep -Eqs '/skydive-(analyzer|agent)\.service' "/proc/$1/cgroup" && return
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
