#!/bin/bash
# Makes a release in build/dist: what the roles download (skydive_release), and what anybody else may want. usage: dist.sh VERSION
#   skydive-linux-ARCH  skydive-tripleo-inventory-linux-ARCH  skydive-image-ARCH.tar  skydive.yaml (Kubernetes)
#   *.deb *.rpm  skydive-ARCH.cdx.json  VERSION  sha256sums  sha256sums.asc
# Two runs on one commit give the same bytes, the signature apart. With SKYDIVE_SIGNING_KEY, a key id of your gpg, the checksums are
# signed; without, it says that they are not.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1
dist=build/dist
make=(make --no-print-directory -s)
rm -rf $dist
mkdir -p $dist

for arch in amd64 arm64; do
    echo "== $arch"
    "${make[@]}" build ARCH=$arch BINARY=$dist/skydive-linux-$arch
    "${make[@]}" images ARCH=$arch BINARY=$dist/skydive-linux-$arch IMAGE=$dist/skydive-image-$arch.tar
    "${make[@]}" packages ARCH=$arch BINARY=$dist/skydive-linux-$arch PACKAGES_DIR=$dist
    "${GO:-go}" run ./packaging/sbom $dist/skydive-linux-$arch "$version" >$dist/skydive-$arch.cdx.json
done
printf '%s\n' "$version" >$dist/VERSION
(cd $dist && find . -type f ! -name 'sha256sums*' -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum >sha256sums)
if [ -n "${SKYDIVE_SIGNING_KEY:-}" ]; then
    gpg --batch --yes --local-user "$SKYDIVE_SIGNING_KEY" --armor --detach-sign --output $dist/sha256sums.asc $dist/sha256sums
    echo "signed by $SKYDIVE_SIGNING_KEY"
else
    echo "not signed: SKYDIVE_SIGNING_KEY names no key"
fi
du -sh $dist/* | sed "s,$dist/,,"
