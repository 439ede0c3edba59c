#!/bin/bash
# Makes the packages and turns the directory that they are in into a repository of apt and yum. All of it by environment:
#   BINARY=build/skydive  TRIPLEO=<skydive-tripleo-inventory beside it>  ARCH=<of this machine>  VERSION=<git describe>  OUT=build/packages  RELEASE=1  MAINTAINER="Name <address>"
#   SKYDIVE_SIGNING_KEY: a key id of your gpg; signs the repository and the RPMs.
#   SKYDIVE_CI=1: a tool that is missing is an error, and no reason to leave something out.
# The same commit gives the same bytes, signatures apart. docs/packages.md tells the rest.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=${BINARY:-build/skydive} out=${OUT:-build/packages} go=${GO:-go}
name=${binary##*/}
tripleo=${TRIPLEO:-$(dirname "$binary")/skydive-tripleo-inventory${name#skydive}}
export LC_ALL=C TZ=UTC ARCH=${ARCH:-$(GOARCH='' "$go" env GOARCH)}
description=${VERSION:-$(git describe --tags --always --dirty)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -c safe.directory='*' log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
PACKAGE_VERSION=$(packaging/version.sh "$description" "$SOURCE_DATE_EPOCH")
PACKAGE_RELEASE=${RELEASE:-1}
MAINTAINER=${MAINTAINER:-The Skydive authors <authors@skydive.invalid>}
export SOURCE_DATE_EPOCH PACKAGE_VERSION PACKAGE_RELEASE MAINTAINER
# The newest that the module proxy gives out.
nfpm_version=v2.45.0
nfpm=$PWD/build/tools/nfpm-$nfpm_version

say() { echo "packages: $*"; }
without() {
    [ -z "${SKYDIVE_CI:-}" ] || { say "$*" >&2; exit 1; }
    say "$*"
}
need() { command -v "$1" >/dev/null || { say "$1 is missing: install $2" >&2; exit 1; }; }
need dpkg-deb dpkg

if [ ! -x "$nfpm" ]; then
    mkdir -p build/tools
    GOOS='' GOARCH='' GOFLAGS='' GOBIN=$PWD/build/tools "$go" install github.com/goreleaser/nfpm/v2/cmd/nfpm@$nfpm_version
    mv build/tools/nfpm "$nfpm"
fi

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
mkdir -p "$out"
out=$(realpath "$out")

# --- what the packages are made of ---------------------------------------------------------------------------------------------
cp "$binary" "$stage/skydive"
cp "$tripleo" "$stage/skydive-tripleo-inventory"
# Pages and completions come from the program; one for another processor cannot be asked.
program=$stage/program/skydive
mkdir "$stage/program"
if "$binary" version >/dev/null 2>&1; then
    cp "$binary" "$program"
    cp "$tripleo" "$program-tripleo-inventory"
else
    GOARCH='' GOOS='' CGO_ENABLED=0 "$go" build -trimpath -buildvcs=false -o "$program" ./src/cmd/skydive
    GOARCH='' GOOS='' CGO_ENABLED=0 "$go" build -trimpath -buildvcs=false -o "$program-tripleo-inventory" ./tripleo
fi
ln -s skydive "$program-cli"
mkdir "$stage/completion"
for name in skydive skydive-cli skydive-tripleo-inventory; do
    for shell in bash zsh fish; do "$stage/program/$name" completion $shell >"$stage/completion/$name.$shell"; done
done
compress() { gzip -9n >"$stage/$1.gz"; }
"$program" man | compress skydive.8
"$program-tripleo-inventory" man | compress skydive-tripleo-inventory.1

cp README.md LICENSE CHANGELOG.md packaging/copyright packaging/logrotate "$stage/"
cp etc/skydive.yml.default "$stage/skydive.yml"
cp etc/skydive-openssl.cnf etc/policy.csv "$stage/"
cp -r packaging/scripts packaging/lintian "$stage/"
compress changelog <CHANGELOG.md
compress changelog.Debian <<END
skydive ($PACKAGE_VERSION-$PACKAGE_RELEASE) unstable; urgency=medium

  * Version $description. What has changed is in changelog.gz.

 -- $MAINTAINER  $(date -u -d "@$SOURCE_DATE_EPOCH" -R)
END

# A tree that stands alone: of this directory, which the roles reach by a symbolic link, it has what they install.
roles=$stage/skydive-ansible/ansible
mkdir -p "$roles" "$stage/ansible-plugins/modules"
cp -r playbook.yml.sample inventory "$stage/skydive-ansible/"
mkdir "$stage/skydive-ansible/tripleo"
cp tripleo/README.md tripleo/skydive-tripleo-inventory "$stage/skydive-ansible/tripleo/"
for part in roles playbooks library module_utils; do
    [ ! -d ansible/$part ] || cp -r ansible/$part "$roles/"
done
rm "$roles/roles/skydive_common/files/packaging"
mkdir "$roles/roles/skydive_common/files/packaging"
cp -r packaging/init packaging/systemd "$roles/roles/skydive_common/files/packaging/"
[ ! -d ansible/library ] || cp -r ansible/library/. "$stage/ansible-plugins/modules/"
[ ! -d ansible/module_utils ] || cp -r ansible/module_utils "$stage/ansible-plugins/"
dangling=$(find -L "$stage/skydive-ansible" -type l)
[ -z "$dangling" ] || { say "links to nowhere: $dangling" >&2; exit 1; }
find "$stage" -name __pycache__ -prune -exec rm -rf {} +
chmod -R u=rwX,go=rX "$stage"
find "$stage" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +

# --- the packages --------------------------------------------------------------------------------------------------------------
# Only one version of each is kept, per architecture.
case $ARCH in amd64) rpm_arch=x86_64 ;; arm64) rpm_arch=aarch64 ;; *) rpm_arch=$ARCH ;; esac
rm -f "$out"/skydive{,-analyzer,-agent}_*_"$ARCH".deb "$out"/skydive-*."$rpm_arch".rpm "$out"/skydive-*_all.deb "$out"/skydive-*.noarch.rpm
package() {
    local kind output
    for kind in "${@:2}"; do
        output=$(cd "$stage" && "$nfpm" package --config "$OLDPWD/packaging/nfpm/$1.yaml" --packager "$kind" --target "$out/" 2>&1) ||
            { echo "$output" >&2; exit 1; }
        say "${output##*/}"
    done
}
package skydive deb rpm
service() {
    export SERVICE=$1 SERVICE_DESCRIPTION=$2
    local script
    rm -rf "$stage/service"
    mkdir "$stage/service"
    cp "packaging/systemd/skydive-$1.service" "$stage/service/unit"
    sed "s/@SERVICE@/$1/g" packaging/init/skydive >"$stage/service/init"
    sed "s/@SERVICE@/$1/g" packaging/lintian/service >"$stage/service/overrides"
    for script in packaging/scripts/service.*; do sed "s/@SERVICE@/$1/g" "$script" >"$stage/service/${script##*.}"; done
    cat >"$stage/service/options" <<END
# Options of the Skydive $1, and its environment: SKYDIVE_SECTION_KEY=value beats the same key of /etc/skydive/skydive.yml.
SKYDIVE_${1^^}_OPTIONS=
END
    find "$stage/service" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
    package skydive-service deb rpm
}
service analyzer 'This package has the service that merges what the agents report, and answers.'
service agent 'This package has the service that watches a host and reports to an analyzer.'
package skydive-ansible deb rpm
if packaging/selinux/build.sh "$stage/selinux"; then
    cp packaging/selinux/skydive.if "$stage/selinux/"
    find "$stage/selinux" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
    compress selinux/skydive-selinux.8 <packaging/selinux/skydive-selinux.8
    package skydive-selinux rpm
else
    without "no skydive-selinux: install checkpolicy, semodule-utils (policycoreutils) and bzip2"
fi

# --- the repository ------------------------------------------------------------------------------------------------------------
key=${SKYDIVE_SIGNING_KEY:-}
sign() { gpg --batch --yes --local-user "$key" --armor "$@"; }
cd "$out"
printf '%s\n' "$description" >VERSION
rm -rf Packages Packages.gz Release Release.gpg InRelease repodata
for file in *.deb; do
    dpkg-deb -f "$file"
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$file" "$(stat -c %s "$file")" "$(sha256sum <"$file" | cut -d' ' -f1)"
done >Packages
gzip -9nk Packages
{
    printf 'Origin: Skydive\nLabel: Skydive\nArchitectures: %s\n' "$(sed -n 's/^Architecture: //p' Packages | sort -u | paste -sd' ')"
    printf 'Date: %s\nSHA256:\n' "$(date -u -d "@$SOURCE_DATE_EPOCH" -R)"
    for file in Packages Packages.gz; do printf ' %s %s %s\n' "$(sha256sum <$file | cut -d' ' -f1)" "$(stat -c %s $file)" $file; done
} >Release
if [ -n "$key" ]; then
    sign --clear-sign --output InRelease Release
    sign --detach-sign --output Release.gpg Release
    if command -v rpmsign >/dev/null; then
        rpmsign --define "__gpg $(command -v gpg)" --define "_gpg_name $key" --addsign -- *.rpm >/dev/null
    else
        without "the RPMs are not signed: install rpm (rpm-sign)"
    fi
fi
touch -d "@$SOURCE_DATE_EPOCH" -- *.deb *.rpm # the metadata of yum tell the time of the files
if command -v createrepo_c >/dev/null; then
    createrepo_c --quiet --no-database --simple-md-filenames --revision "$SOURCE_DATE_EPOCH" --set-timestamp-to-revision .
    [ -z "$key" ] || sign --detach-sign --output repodata/repomd.xml.asc repodata/repomd.xml
else
    without "no repodata, so no repository of yum: install createrepo-c (createrepo_c)"
fi
if [ -n "$key" ]; then say "signed by $key"; else say "not signed: SKYDIVE_SIGNING_KEY names no key"; fi
