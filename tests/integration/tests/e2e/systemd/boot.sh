#!/bin/bash
# Debian's systemd as the first process of its own namespaces, with this machine's programs,
# and an /etc, a /run and a /tmp of its own.
#
# boot.sh FOLDER PLACE: units are in FOLDER/units; PLACE is visible at the same path.
# With LEGACY set, systemd finds no cgroup tree and mounts the hierarchies that its settings select.
set -euo pipefail
folder=$1
place=$2
root=$folder/root
mkdir "$root"
mount -t tmpfs -o mode=755 none "$root"
for name in usr bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then
        cp -a "/$name" "$root/$name"
    elif [ -d "/$name" ]; then
        mkdir "$root/$name"
        mount --rbind "/$name" "$root/$name"
    fi
done
mkdir -p "$root"/{dev,proc,sys,run,tmp,var,root,etc/systemd,etc/emu}
cp -a /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so* "$root/etc/"
cp -r "$folder/units" "$root/etc/systemd/system"
echo 0123456789abcdef0123456789abcdef > "$root/etc/machine-id"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc none "$root/proc"
mount -t tmpfs none "$root/run"
mount -t tmpfs none "$root/tmp"
mkdir -p "$root$place"
mount --bind "$place" "$root$place"
# The agent's unit has a /tmp of its own, where PLACE may be.
mkdir -p "$root/opt/emu"
mount --bind "$place" "$root/opt/emu"
if [ -n "${LEGACY:-}" ]; then
    umount "$root/sys/fs/cgroup"
    export SYSTEMD_PROC_CMDLINE="systemd.unified_cgroup_hierarchy=no \
systemd.legacy_systemd_cgroup_controller=no"
fi
exec chroot "$root" env container=emu /lib/systemd/systemd --system \
    --unit=test.target --log-target=null --show-status=0
