#!/bin/sh
# Makes DIRECTORY/skydive.pp.bz2, the policy module; exit code 1 when a tool for it is missing. usage: build.sh DIRECTORY
set -eu
source=$(dirname "$0")
for tool in checkmodule semodule_package bzip2; do
    command -v $tool >/dev/null || { echo "$tool is missing" >&2; exit 1; }
done
mkdir -p "$1"
# Format 19 is what the oldest supported distribution (EL 8) reads. -M: with the levels that all of them have.
checkmodule -M -m -c 19 -o "$1/skydive.mod" "$source/skydive.te"
semodule_package -o "$1/skydive.pp" -m "$1/skydive.mod" -f "$source/skydive.fc"
bzip2 -9f "$1/skydive.pp"
rm "$1/skydive.mod"
