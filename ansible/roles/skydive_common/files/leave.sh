#!/bin/sh
# Removes the containers of this deployment, and their images with those that they replaced: leave.sh NAME|ID...
# Prints what it removed. With SKYDIVE_CHECK set it removes nothing (ansible --check).
set -eu
host=$(uname -n | cut -d. -f1)
remove() { # ENGINE COMMAND... NAME
    [ -n "${SKYDIVE_CHECK:-}" ] || "$@" >/dev/null
    echo "$@"
}
images() { # IDs of all that has been in the repository of a name; a moved tag leaves its old image without a name
    repository=${1%@*}
    case ${repository##*/} in *:*) repository=${repository%:*} ;; esac
    [ $engine = podman ] || repository=${repository#docker.io/} # as docker writes it
    $engine images --no-trunc --quiet "$repository"
    [ $engine = docker ] ||
        $engine images --no-trunc --filter dangling=true --format '{{.ID}} {{.History}}' | grep -F "$repository:" | cut -d' ' -f1
}
for engine in docker podman; do
    case $engine:$(command -v $engine >/dev/null && $engine --version) in docker:Docker* | podman:podman*) ;; *) continue ;; esac
    for container in "skydive-analyzer-$host" "skydive-agent-$host"; do
        if $engine container inspect "$container" >/dev/null 2>&1; then remove $engine rm --force --volumes "$container"; fi
    done
    for name in localhost/skydive/skydive "$@"; do
        case $name in sha256:* | */*) ;; *) name=sha256:$name ;; esac
        case $name in sha256:*) ids=$name ;; *) ids=$(images "$name") ;; esac
        for id in $ids; do
            if $engine image inspect "${id#sha256:}" >/dev/null 2>&1; then remove $engine rmi --force "${id#sha256:}"; fi
        done
    done
done
