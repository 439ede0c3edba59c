#!/bin/bash
# Makes the image of the test hosts: a minimal Debian with systemd as PID 1, sshd and Python. usage: host-image.sh OUT.tar PUBLIC_KEY SUITE PACKAGE,...
set -eu
out=$1 key=$2 suite=$3 packages=$4
hook=$(mktemp)
trap 'rm -f "$hook"' EXIT
cat >"$hook" <<HOOK
root=\$1
: >\$root/etc/machine-id
rm -rf \$root/var/lib/apt/lists/* \$root/etc/ssh/ssh_host_*
install -d -m 0700 \$root/root/.ssh
install -m 0600 $(realpath "$key") \$root/root/.ssh/authorized_keys
# Host keys are made at the first boot; what a container has no use for is masked.
install -d \$root/etc/systemd/system/ssh.service.d
printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\nExecStartPre=/usr/sbin/sshd -t\n' >\$root/etc/systemd/system/ssh.service.d/keys.conf
for unit in systemd-remount-fs.service getty@tty1.service console-getty.service systemd-logind.service systemd-udevd.service \
    systemd-firstboot.service systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount; do
    ln -sf /dev/null \$root/etc/systemd/system/\$unit
done
HOOK
# Documentation is left out, but for our own: a test looks at what the packages install.
mmdebstrap --quiet --format=tar --variant=minbase --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-include=/usr/share/doc/skydive*' --dpkgopt='path-include=/usr/share/man/*/skydive*' \
    --aptopt='Acquire::Languages "none"' --customize-hook="sh $hook \"\$1\"" "$suite" "$out.part"
mv "$out.part" "$out"
