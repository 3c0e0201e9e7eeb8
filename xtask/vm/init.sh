#!/vm/busybox sh
# Process 1 of a guest on its root: a machine as a program expects it, then /vm/command, whose output goes to one serial
# line and whose code to another; what it leaves in /out goes to a disk, as a tar.
b=/vm/busybox
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LC_ALL=C.UTF-8
$b mkdir -p /dev/pts /dev/shm /dev/disk /out /run /tmp
$b mount -t devpts devpts /dev/pts; $b mount -t tmpfs shm /dev/shm; $b mount -t tmpfs -o mode=755 run /run
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup; $b mount -t tracefs tracefs /sys/kernel/tracing
$b mount -t bpf bpf /sys/fs/bpf
for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
  $b ln -s "${link#*:}" "/dev/${link%%:*}"
done
for at in /sys/block/vd*; do name=$($b cat "$at/serial"); [ -z "$name" ] || $b ln -s "/dev/${at##*/}" "/dev/disk/$name"; done
modules=/lib/modules/$($b uname -r)
$b mkdir -p "$modules"; $b mount -t ext4 -o ro /dev/disk/modules "$modules" || echo "vm: no modules"
[ -x /sbin/modprobe ] || echo /vm/modprobe > /proc/sys/kernel/modprobe
$b ifconfig lo 127.0.0.1 up; $b hostname vm
cd /root 2> /dev/null || cd /
$b mkfifo /dev/vm.pipe; $b cat /dev/vm.pipe > /dev/ttyS1 & cat=$! # so that the command has a pipe, not a terminal
echo "start $($b cut -d' ' -f1 /proc/uptime)" > /dev/ttyS2
$b sh /vm/command < /dev/null > /dev/vm.pipe 2>&1; code=$?
echo "end $($b cut -d' ' -f1 /proc/uptime)" > /dev/ttyS2
for _ in $($b seq 30); do kill -0 $cat 2> /dev/null || break; $b sleep 0.1; done # what still runs may hold the pipe
[ ! -e /dev/disk/out ] || $b tar -c -C /out . > /dev/disk/out
$b sync
echo "code $code" > /dev/ttyS2
$b usleep 100000 # the serial lines run empty
$b poweroff -f
