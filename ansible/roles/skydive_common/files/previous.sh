#!/bin/sh
# Keeps what is deployed on a host until something newer has proved itself.
#   previous.sh save FILE...   FILEs: binary, configuration, whatever else the deployment writes beside its services' definitions
#   previous.sh packages       prints what would bring the packages back: "install FILE", "install NAME=VERSION", "remove NAME"
#   previous.sh restore        puts files and images back and runs what ran; packages come first
#   previous.sh drop
set -eu
store=/var/cache/skydive-previous # beside what a move to another mode removes
action=$1
shift
state() {
    if [ -d /run/systemd/system ]; then
        systemctl show -P ActiveState "$1"
    elif [ -x "/etc/init.d/$1" ] && "/etc/init.d/$1" status >/dev/null; then
        echo active
    else
        echo inactive
    fi
}
outdated() { # its program was replaced since it started
    if [ -d /run/systemd/system ]; then pid=$(systemctl show -P MainPID "$1"); else pid=$(cat "/run/$1.pid" 2>/dev/null) || :; fi
    case $(readlink "/proc/${pid:-0}/exe") in *' (deleted)') return 0 ;; esac
    return 1
}
init() { # skydive-X start|restart
    if [ -d /run/systemd/system ]; then
        systemctl reset-failed "$1" 2>/dev/null || : # else what failed before counts against the limit of starts
        systemctl "$2" "$1"
    else
        "/etc/init.d/$1" "$2"
    fi
}
definitions() {
    for name in skydive-analyzer skydive-agent; do
        printf '%s\n' "/etc/systemd/system/$name.service" "/etc/systemd/system/multi-user.target.wants/$name.service" \
            "/etc/systemd/system/$name.service.d" "/etc/containers/systemd/$name.container" "/etc/init.d/$name"
    done
    for name in skydive skydive-analyzer skydive-agent; do
        printf '%s\n' "/var/cache/skydive/$name.deb" "/var/cache/skydive/$name.rpm"
    done
}
installed() {
    if command -v dpkg-query >/dev/null; then
        # shellcheck disable=SC2016 # the fields are dpkg's
        dpkg-query -W -f '${db:Status-Status} ${Package} ${Version}\n' skydive skydive-analyzer skydive-agent 2>/dev/null | sed -n 's/^installed //p'
    elif command -v rpm >/dev/null; then
        rpm -q --qf '%{NAME} %{VERSION}-%{RELEASE}\n' skydive skydive-analyzer skydive-agent | grep -v ' is not installed$'
    fi || :
}
version() { # of a package's file
    case $1 in *.deb) dpkg-deb -f "$1" Version ;; *) rpm -qp --qf '%{VERSION}-%{RELEASE}' "$1" 2>/dev/null ;; esac
}
images() { # "ENGINE ID REFERENCE" of those that our containers run
    for engine in podman docker; do
        case $engine:$(command -v $engine >/dev/null && $engine --version) in
        docker:Docker*) name='{{.Config.Image}}' ;;
        podman:podman*) name='{{.ImageName}}' ;;
        *) continue ;; # not here, or podman under the name of docker
        esac
        for container in $($engine ps -q --filter name=skydive-a 2>/dev/null); do
            $engine inspect --type container -f "$engine {{.Image}} $name" "$container"
        done
    done
}
present() {
    for file; do
        if [ -e "$file" ] || [ -L "$file" ]; then echo "$file"; fi
    done
}

case $action in
save)
    rm -rf $store
    install -d -m 0700 $store
    installed >$store/installed
    images | sort -u | while read -r engine id reference; do # a move to another mode takes them away
        set --
        if [ "$engine" = podman ]; then # in another format it would get another ID
            case $(podman image inspect -f '{{.ManifestType}}' "$id") in *oci*) format=oci-archive ;; *) format=docker-archive ;; esac
            set -- --quiet --format=$format
        fi
        $engine save "$@" -o "$store/image-${id#sha256:}.tar" "$id" >&2
        echo "$engine $id $reference"
    done >$store/images
    for name in skydive-analyzer skydive-agent; do
        case $(state $name) in active | activating | reloading) echo $name ;; esac
    done >$store/running
    printf '%s\n' "$@" "$(definitions)" >$store/all
    # shellcheck disable=SC2046 # paths of ours, without blanks
    present $(cat $store/all) >$store/files
    tar -cpPf $store/files.tar -T $store/files
    while read -r name version; do
        for file in "/var/cache/skydive/$name".[dr][ep][bm] "/var/cache/apt/archives/${name}_${version}_"*.deb; do
            if [ -f "$file" ] && [ "$(version "$file")" = "$version" ]; then
                cp "$file" "$store/$name.${file##*.}"
                continue 2
            fi
        done
        # Its repository may be forgotten by the time that it is wanted again.
        if command -v apt-get >/dev/null && (cd $store && apt-get download -qq -o Acquire::http::Timeout=10 "$name=$version" >&2); then
            mv $store/"$name"_*.deb "$store/$name.deb"
        fi
    done <$store/installed
    ;;
packages)
    [ "$(installed)" = "$(cat $store/installed)" ] && exit 0
    while read -r name version; do
        set -- "$store/$name".[dr][ep][bm]
        if [ -f "$1" ]; then echo "install $1"; else echo "install $name=$version"; fi
    done <$store/installed
    installed | while read -r name _; do
        grep -q "^$name " $store/installed || echo "remove $name"
    done
    ;;
restore)
    # What failed before it touched anything is no reason to interrupt what runs.
    restart=restart
    # shellcheck disable=SC2046
    if [ "$(present $(cat $store/all))" = "$(cat $store/files)" ] && tar -dPf $store/files.tar >/dev/null 2>&1; then restart=start; fi
    while read -r file; do
        grep -qxF "$file" $store/files || rm -rf "$file"
    done <$store/all
    tar -xpPf $store/files.tar
    while read -r engine id reference; do
        $engine image inspect "$id" >/dev/null 2>&1 || $engine load -q -i "$store/image-${id#sha256:}.tar" >/dev/null
        $engine tag "$id" "$reference"
    done <$store/images
    [ ! -d /run/systemd/system ] || systemctl daemon-reload
    while read -r name; do
        if outdated "$name"; then init "$name" restart; else init "$name" $restart; fi
    done <$store/running
    ;;
drop)
    rm -rf $store
    rmdir /var/cache/skydive 2>/dev/null || : # what packages that were taken back have left
    ;;
esac
