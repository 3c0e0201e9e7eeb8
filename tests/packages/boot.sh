# Boots the root $1 under its own systemd. Runs as the first process of new mount, PID, IPC, UTS and cgroup namespaces, which end with
# it. The network is the machine's.
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
# systemd would set the machine's kernel parameters, which are not the node's alone.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
# The machine's hierarchies of cgroups: one of version 2, or beside it those of version 1, in which runc looks for its controllers.
if grep -q ' /sys/fs/cgroup cgroup2 ' /proc/self/mounts; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
    grep -E '^[^ ]+ /sys/fs/cgroup/[^ ]+ cgroup2? ' /proc/self/mounts | while read -r name at kind options _; do
        mkdir "$PWD$at"
        options=$(echo "$options" | tr , '\n' | grep -vE '^(rw|ro|relatime|nosuid|nodev|noexec|nsdelegate.*|memory_recursiveprot)$' | paste -sd,)
        mount -t "$kind" ${options:+-o "$options"} "$name" "$PWD$at"
    done
fi
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
while read -r name major minor; do
    mknod -m 666 "dev/$name" c "$major" "$minor"
done <<DEVICES
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
fuse 10 229
DEVICES
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
pivot_root . mnt
cd /
umount -l /mnt
# As systemd does on a machine, but not in a container.
mount --make-rshared /
exec env -i container=soci PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
