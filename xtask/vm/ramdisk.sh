#!/bin/busybox sh
# Process 1 of a guest, in the initramfs: loads what leads to the disks, mounts the root and goes there.
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod "$module" || echo "vm: cannot load $module"; done
for tty in 1 2; do $b stty -F /dev/ttyS$tty raw -echo; done
disk() { for at in /sys/block/vd*; do [ "$($b cat "$at/serial")" != "$1" ] || echo "/dev/${at##*/}"; done; }
for _ in $($b seq 100); do [ -z "$(disk root)" ] || break; $b sleep 0.1; done
if $b grep -qw vm.host /proc/cmdline; then
  # The machine's root, read-only, below what the guest changes; /disk is a file system without an overlay.
  $b mkdir -p /lower /upper
  $b mount -t ext4 -o noatime "$(disk root)" /upper && $b mkdir -p /upper/.up /upper/.work /upper/tmp
  $b mount -t virtiofs -o ro host /lower || echo "vm: no virtiofs"
  $b mount -t overlay -o lowerdir=/upper/.low:/lower,upperdir=/upper/.up,workdir=/upper/.work root /root || echo "vm: no overlay"
  $b mkdir -p /root/disk && $b mount --move /upper /root/disk
else
  $b mount -t ext4 -o noatime "$(disk root)" /root || echo "vm: no root"
fi
for at in dev sys proc; do $b mkdir -p /root/$at; $b mount --move /$at /root/$at; done
$b mkdir -p /root/vm; $b cp /command /root/vm/command
exec $b switch_root /root /vm/init.sh
