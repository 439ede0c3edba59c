#!/bin/sh
# Brings container images onto a host and prints "NAME ID" of each: bring.sh ENGINE FILE NAME...
# FILE is an archive that holds them; an empty one means that they are pulled.
# Older images of the same repositories go, unless a container runs them: the version before stays until the next one comes.
# With SKYDIVE_CHECK set nothing is brought (ansible --check); the ID of an image that is not there is then "-".
set -eu
engine=$1 file=$2
shift 2
# What engines write on their way is of no interest; the last line of what they complain about is.
try() {
    complaint=$("$@" 2>&1 >/dev/null) && return
    echo "$complaint" | sed -n '$s/^\(time=.* msg=\|Error: \|error pulling image configuration: \)*//p' >&2
    exit 1
}
id() { $engine image inspect --format '{{.Id}}' "$1" 2>/dev/null | sed 's/^sha256://'; }
if [ -z "${SKYDIVE_CHECK:-}" ]; then
    if [ -n "$file" ]; then
        try "$engine" load --quiet --input "$file"
    else
        for name; do try "$engine" pull --quiet "$name"; done
    fi
fi
brought=
for name; do
    id=$(id "$name")
    brought="$brought $id"
    echo "$name ${id:--}"
done
[ -z "${SKYDIVE_CHECK:-}" ] || exit 0
for name; do
    repository=${name%@*}
    case ${repository##*/} in *:*) repository=${repository%:*} ;; esac
    # Docker leaves out the name of its own registry. Podman keeps, as history, the names that an image had.
    case $engine in docker) history= ;; *) history=' {{.History}}' ;; esac
    $engine images --no-trunc --format "{{.ID}} {{.Repository}}:{{.Tag}}$history" 2>/dev/null |
        awk -v whole="$repository" -v short="${repository#docker.io/}" '{
            for (i = 2; i <= NF; i++) {
                gsub(/^\[+|[],]+$/, "", $i); sub(/@.*/, "", $i); sub(/:[^:\/]*$/, "", $i)
                if ($i == whole || $i == short) { print $1; next }
            }
        }' | while read -r old; do
        case $brought in *"${old#sha256:}"*) ;; *) $engine rmi "$old" >/dev/null 2>&1 || : ;; esac # one that a container runs stays
    done
done
