# The steps of one image layer, run by xtask inside a private mount and pid namespace, so that nothing
# stays mounted or running afterwards.
# usage: layer.sh LOWERDIRS (host SCRIPT | chroot SCRIPT | file PATH MODE SOURCE)...
# environment: M (the image's root while building), UPPER, WORK, MIRROR, DOWNLOADS
set -euo pipefail
export SOURCE_DATE_EPOCH=1750000000 LC_ALL=C
umask 022
lowers=$1
shift
# Renames and metadata changes must copy up whole: only then is the upper directory a complete layer.
if [ -n "$lowers" ]; then
  mount -t overlay overlay -o "lowerdir=$lowers,upperdir=$UPPER,workdir=$WORK,redirect_dir=off,metacopy=off,index=off" "$M"
else
  mount --bind "$UPPER" "$M"
fi

in_chroot='
mount -t proc proc "$M/proc"
mount -t tmpfs -o mode=1777 tmpfs "$M/tmp"
mount --bind /etc/resolv.conf "$M/etc/resolv.conf"
mount -t tmpfs -o mode=755 tmpfs "$M/dev"
mkdir "$M/dev/pts" "$M/dev/shm"
ln -s /proc/self/fd "$M/dev/fd"
for node in null zero full random urandom tty; do
  : >"$M/dev/$node"
  mount --bind "/dev/$node" "$M/dev/$node"
done
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive \
  LC_ALL="$LC_ALL" SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" \
  ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
  chroot "$M" /bin/bash -euo pipefail -c "$1"'

while [ $# -gt 0 ]; do
  case $1 in
    host) bash -euo pipefail -c "$2"; shift 2 ;;
    chroot) unshare --mount --propagation private bash -euo pipefail -c "$in_chroot" chroot "$2"; shift 2 ;;
    file) install -D -m "$3" "$4" "$M/$2"; shift 4 ;;
    *) echo "unknown step: $1" >&2; exit 2 ;;
  esac
done
