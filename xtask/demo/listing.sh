# Everything a container can see of its image, one line for each file: kind, mode, owner, time, name, target
# of links, device numbers, and for regular files size and SHA-256. Ends with a READY line.
# Left out: what the runtime mounts over the image, the time of ./etc (the runtime may have to make a file there
# to mount over), and sizes and link counts of folders, which belong to the file system below.
set -eu
cd /
export LC_ALL=C
mounted="-path ./proc -o -path ./sys -o -path ./dev -o -path ./etc/resolv.conf -o -path ./etc/hosts -o -path ./etc/hostname"
# shellcheck disable=SC2086
find . -xdev \( $mounted \) -prune -o ! -name . ! -path ./etc ! \( -type b -o -type c \) -printf '%y %m %U:%G %T@ %p -> %l\n' | sort
find . -xdev \( $mounted \) -prune -o \( -type b -o -type c \) -exec stat --format '%F %a %u:%g %t:%T %Y %n' {} + | sort
find . -xdev \( $mounted \) -prune -o -type f -printf '%s %p\n' | sort
find . -xdev \( $mounted \) -prune -o -type f -print0 | sort -z | xargs -0 -r sha256sum
echo READY listing
