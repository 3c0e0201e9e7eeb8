# Deaths of the daemon while containers read, by the kernel's EROFS and by FUSE: tests/programs/chaos without a containerd, which a
# guest does not have. Its daemons are the programs of this guest; what they hold of a connection is this kernel's.
# deaths.sh SECONDS
. /vm/checks.sh
export SOCI_BIN_DIR=/usr/bin TMPDIR=/var/tmp
for way in erofs fuse; do
  check "deaths, $way" chaos chaos "$1" 1 $way without-containerd
  sed 's/^/:: /' $said | grep -E '^:: [{k]' | tail -n 8
done
check "no mounts left of daemons that died" not grep -E ' - (fuse|erofs|overlay)' /proc/self/mountinfo
exit 0
