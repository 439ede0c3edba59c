#!/bin/bash
# Deploys into two Debian hosts with a real systemd, as containers, over SSH: h1 has the analyzer and an agent, h2 an agent.
# usage: deploy-test.sh [further ansible-playbook arguments]; needs root. Installs what it needs from Debian; its Docker
# daemon, hosts and network are its own, and end with it. Images are cached in ~/.cache/skydive-tests.
set -eu
cd "$(dirname "$0")/../.."
cache=~/.cache/skydive-tests
suite=${SUITE:-bookworm}
image=skydive-tests/host:$suite
subnet=${SUBNET:-10.77.3}
work=$(mktemp -d)
passed=0

say() { printf '\n--- %s (%ds)\n' "$*" $SECONDS; }
ok() { passed=$((passed + 1)); echo "ok: $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
check() { local what=$1; shift; if "$@"; then ok "$what"; else fail "$what: $*"; fi; }
within() { local end=$((SECONDS + $1)); shift; until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done; }
on() { local host=$1; shift; docker exec -i "$host" "$@"; }

finish() {
    rc=$?
    set +e
    if [ $rc != 0 ]; then
        for log in play docker; do [ -s "$work/$log.log" ] && { echo "--- end of $log.log"; tail -n 60 "$work/$log.log" | cut -c 1-400; }; done
        for host in h1 h2; do echo "--- journal of $host"; on $host journalctl --no-pager -n 30 -u skydive-analyzer -u skydive-agent; done
    fi 2>/dev/null
    docker rm -f h1 h2 >/dev/null 2>&1
    docker network rm skydive-tests >/dev/null 2>&1
    if [ -s "$work/docker.pid" ]; then
        kill "$(cat "$work/docker.pid")"
        wait
        rm -rf "$cache/docker-exec"
    fi
    rm -rf "$work"
    [ $rc = 0 ] && printf '\ndeploy-test: %d passed, 0 failed\n' $passed
    exit $rc
}
trap finish EXIT

say "what the test needs"
[ "$(id -u)" = 0 ] || fail "needs root"
.ci/need ansible-playbook:ansible-core dockerd:docker.io docker:docker.io mmdebstrap:mmdebstrap ssh:openssh-client ss:iproute2
mkdir -p "$cache"
[ -f "$cache/id_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -C skydive-tests -f "$cache/id_ed25519"
# Another key makes another image.
tar=$cache/host-$suite-$(sha256sum <"$cache/id_ed25519.pub" | cut -c1-8).tar
[ -f "$tar" ] || ansible/tests/host-image.sh "$tar" "$cache/id_ed25519.pub" "$suite"

# A daemon of our own, without a rule in the machine's firewall: the hosts share one bridge with the controller.
export DOCKER_HOST=unix://$work/docker.sock
dockerd --host "$DOCKER_HOST" --data-root "$cache/docker" --exec-root "$cache/docker-exec" --pidfile "$work/docker.pid" \
    --log-level warn --bridge none --iptables=false --ip6tables=false >"$work/docker.log" 2>&1 &
within 30 docker info >/dev/null 2>&1 || fail "dockerd did not start"
docker import -c 'CMD ["/lib/systemd/systemd"]' -c 'ENV container=docker' "$tar" "$image" >/dev/null
docker rm -f h1 h2 >/dev/null 2>&1 || true
docker network rm skydive-tests >/dev/null 2>&1 || true
docker network create --subnet "$subnet.0/24" -o com.docker.network.bridge.name=br-skytest skydive-tests >/dev/null

say "two hosts boot"
caps=
for cap in SYS_ADMIN NET_ADMIN NET_RAW SYS_PTRACE SYS_NICE SYS_BOOT DAC_READ_SEARCH LINUX_IMMUTABLE NET_BROADCAST IPC_LOCK SYS_TTY_CONFIG \
    LEASE AUDIT_CONTROL AUDIT_READ SYSLOG; do caps="$caps --cap-add $cap"; done
for n in 1 2; do
    # shellcheck disable=SC2086
    docker run -d --name h$n --hostname h$n --network skydive-tests --ip $subnet.1$n --stop-signal SIGRTMIN+3 $caps \
        --security-opt seccomp=unconfined --security-opt systempaths=unconfined --cgroupns=private --tmpfs /run:exec --tmpfs /run/lock \
        --tmpfs /tmp:exec "$image" >/dev/null
done
booted() { case $(on "$1" systemctl is-system-running 2>/dev/null) in running | degraded) ;; *) return 1 ;; esac; }
for host in h1 h2; do
    within 60 booted $host || fail "$host does not boot"
    on $host mount --make-rshared / # as systemd does where it boots the machine itself
done

cat >"$work/hosts" <<INVENTORY
[analyzers]
h1 ansible_host=$subnet.11
[agents]
h1 ansible_host=$subnet.11
h2 ansible_host=$subnet.12
[all:vars]
ansible_user=root
ansible_ssh_private_key_file=$cache/id_ed25519
ansible_ssh_common_args=-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR
skydive_auth_type=basic
[agents:vars]
skydive_extra_config={'agent.metadata': {'Rack': 'r.1'}, 'logging.level': 'DEBUG'}
INVENTORY
arguments=("$@")
play() { ansible-playbook -i "$work/hosts" "${arguments[@]}" "$@" >"$work/play.log" 2>&1; }
recap() { sed -n '/^PLAY RECAP/,$p' "$work/play.log"; }
unchanged() { ! recap | grep -Eq 'changed=[1-9]'; }
# Everything a deployment may touch, with mode, owner and, for small files, content.
snapshot() {
    on "$1" sh -c 'find /etc /usr /var /opt /srv /home /root -xdev ! -path "/var/log/*" ! -path "/root/.ansible*" ! -path "/var/cache/*" \
        ! -name "*.pyc" ! -name __pycache__ ! -path /etc ! -path /root ! -name ".pwd.lock" ! -name "*-" -printf "%p %M %u %g %l\n" | sort
        cat /etc/passwd /etc/group; ls -d /var/log/skydive 2>/dev/null || true'
}
for host in h1 h2; do snapshot $host >"$work/$host.before"; done

say "what is wrong is refused before anything is touched"
refused() {
    local want=$1; shift
    if play playbook.yml.sample "$@"; then fail "accepted: $*"; fi
    grep -q "$want" "$work/play.log" || fail "no word of '$want': $*"
    for host in h1 h2; do snapshot $host | diff "$work/$host.before" - >&2 || fail "touched $host: $*"; done
    ok "refused: $*"
}
refused 'did you mean skydive_analyzer_port' -e skydive_analyser_port=1
refused 'unable to convert to int' -e skydive_agent_port=http
refused 'is not in this version' -e skydive_deployment_mode=container
refused 'skydive_binary_checksum must say' -e skydive_binary_remote_location=https://example.org/skydive
docker exec -d h1 python3 -m http.server 8082
within 10 on h1 sh -c 'ss -Hltn "sport = :8082" | grep -q .'
refused '0.0.0.0:8082 is held by process .*python3 -m http.server' --diff
on h1 pkill -f http.server

say "first run"
start=$SECONDS
play playbook.yml.sample -v || fail "first run"
recap
ok "first run: $((SECONDS - start)) s"
for host in h1 h2; do on $host sh -c 'for unit in agent analyzer; do systemctl show -P MainPID skydive-$unit; done' >"$work/$host.pids"; done

say "no password is seen"
on h1 cat /etc/skydive/credentials.yml | sed -n 's/^skydive_.*: //p' >"$work/passwords"
check "three passwords were generated" test "$(wc -l <"$work/passwords")" = 3
check "none is in the play's output" sh -c "! grep -qFf '$work/passwords' '$work/play.log'"
for host in h1 h2; do
    on $host ps -eo args >"$work/seen"
    on $host journalctl --no-pager -u skydive-agent -u skydive-analyzer >>"$work/seen"
    on $host sh -c 'find /etc /var /run /tmp /root -xdev -type f -perm -o=r -size -1M -exec cat {} +' >>"$work/seen" 2>/dev/null || true
    check "none is in the processes, logs and readable files of $host" sh -c "! grep -aqFf '$work/passwords' '$work/seen'"
done
mode() { check "$2 of $1 is $3" test "$(on "$1" stat -c '%a %U:%G' "$2")" = "$3"; }
mode h1 /etc/skydive "750 root:skydive"
mode h1 /etc/skydive/credentials.yml "600 root:root"
check "h2 has no credentials file" on h2 test ! -e /etc/skydive/credentials.yml
for host in h1 h2; do
    mode $host /etc/skydive/skydive.yml "640 root:skydive"
    mode $host /var/lib/skydive "750 skydive:skydive"
    mode $host /usr/bin/skydive "755 root:root"
done

say "the services are confined"
status() { on "$1" sh -c "cat /proc/\$(systemctl show -P MainPID $2)/status" | awk -v key="$3:" '$1 == key { print $2 }'; }
uid=$(on h1 id -u skydive)
check "skydive is a system account" test "$uid" -lt 1000
for host in h1 h2; do
    check "the agent of $host runs as skydive" test "$(status $host skydive-agent Uid)" = "$(on $host id -u skydive)"
    check "with no new privileges" test "$(status $host skydive-agent NoNewPrivs)" = 1
    caps=$((0x$(status $host skydive-agent CapEff)))
    # NET_ADMIN NET_RAW SYS_PTRACE SYS_ADMIN DAC_READ_SEARCH are there; nothing beyond them, BPF and PERFMON.
    check "with the capabilities it needs" test $((caps & 0x283004)) = $((0x283004))
    check "and no other" test $((caps & ~0xc000283004)) = 0
done
check "the analyzer runs as skydive" test "$(status h1 skydive-analyzer Uid)" = "$uid"
check "and has no capability at all" test $((0x$(status h1 skydive-analyzer CapBnd))) = 0
for unit in analyzer:2.0 agent:5.0; do
    score=$(on h1 systemd-analyze security --no-pager skydive-${unit%:*} | sed -n 's/.*exposure level.*: \([0-9.]*\) .*/\1/p')
    check "exposure of ${unit%:*} is at most ${unit#*:} (it is $score)" awk "BEGIN { exit !($score <= ${unit#*:}) }"
done
check "extra configuration is there, names with dots whole" on h2 grep -q 'Rack: r.1' /etc/skydive/skydive.yml
check "the agent has no section of the analyzer" sh -c "! docker exec h2 grep -q '^analyzer:' /etc/skydive/skydive.yml"

say "and see what they should"
query() {
    on h1 env SKYDIVE_ANALYZER=$subnet.11:8082 SKYDIVE_USERNAME=skydive SKYDIVE_PASSWORD="$(head -n 1 "$work/passwords")" skydive client query "$1"
}
on h2 ip netns add later
docker exec -d h2 unshare --net sleep 300
answered() { [ "$(query "$1")" = "$2" ]; }
sees() { check "$1" within 15 answered "$2" "$3"; }
sees "both hosts are in the graph" "G.V().Has('Type', 'host').Count()" 2
sees "a namespace that was made after the agent started" "G.V().Has('Type', 'netns', 'Name', 'later').Out('Name', 'lo').Count()" 1
sees "one that only a process holds" "G.V().Has('Type', 'netns', 'Name', Regex('(sleep|unshare)-.*')).Out('Name', 'lo').Count()" 1
if on h1 env SKYDIVE_ANALYZER=$subnet.11:8082 skydive client query 'G.V().Count()' >/dev/null 2>&1; then fail "an answer without a password"; fi
ok "who has no password sees nothing"
on h2 sh -c 'pkill sleep; ip netns delete later'
sees "and that both are gone" "G.V().Has('Type', 'netns').Count()" 0

say "second run, check mode and verification change nothing"
start=$SECONDS
play playbook.yml.sample || fail "second run"
recap
check "the second run changes nothing ($((SECONDS - start)) s)" unchanged
for host in h1 h2; do
    on $host sh -c 'for unit in agent analyzer; do systemctl show -P MainPID skydive-$unit; done' | diff "$work/$host.pids" - || fail "$host: a service was restarted"
done
ok "no service was restarted"
play playbook.yml.sample --check --diff || fail "check mode"
check "check mode finds nothing to do" unchanged
play ansible/playbooks/verify.yml || fail "verification"
check "verification changes nothing" unchanged

say "changes reach the services, mistakes do not"
play playbook.yml.sample -e '{"skydive_extra_config": {"agent.listen": "127.0.0.1:8091", "logging.level": "DEBUG"}}' || fail "run with extra configuration"
listens() { on h2 ss -Hltn "sport = :$1" | grep -q .; }
check "skydive_extra_config beats the role's own agent.listen" within 10 listens 8091
if play playbook.yml.sample -e '{"skydive_extra_config": {"agent.topolgy.probes": []}}'; then fail "an unknown key was accepted"; fi
check "an unknown key is named" grep -qi topolgy "$work/play.log"
check "and is not in the file" sh -c "! docker exec h2 grep -q topolgy /etc/skydive/skydive.yml"
check "the agent goes on" listens 8091

say "an agent that is killed comes back"
pid=$(on h2 systemctl show -P MainPID skydive-agent)
on h2 kill -9 "$pid"
back() { new=$(on h2 systemctl show -P MainPID skydive-agent); [ "$new" != 0 ] && [ "$new" != "$pid" ]; }
check "systemd restarts it" within 10 back
play ansible/playbooks/verify.yml || fail "verification after the kill"
ok "and it is connected again"

say "reset leaves nothing"
play ansible/playbooks/reset.yml -e skydive_reset_data=yes || fail "reset"
for host in h1 h2; do
    snapshot $host | diff "$work/$host.before" - || fail "$host is not as it was"
    ok "$host is as it was"
done
check "no process is left" sh -c "! docker exec h1 pgrep skydive"
play ansible/playbooks/reset.yml -e skydive_reset_data=yes || fail "second reset"
check "a second reset changes nothing" unchanged
