# Deaths of the daemon while containers read: tests/programs/chaos, small and without a containerd. By the
# kernel's EROFS where it can, else by FUSE; `both`: by both.
# deaths.sh SECONDS [both]
. /vm/checks.sh
export SOCI_BIN_DIR=/usr/bin TMPDIR=/var/tmp
[ "$EROFS" = yes ] && ways=erofs || ways=fuse
[ "$2" != both ] || ways="erofs fuse"
for way in $ways; do
  check "deaths, $way" chaos chaos "$1" 1 $way in-guest
  sed 's/^/:: /' $said | grep -E '^:: [{k]' | tail -n 8
done
check "no mounts left of daemons that died" not grep -E ' - (fuse|erofs|overlay)' /proc/self/mountinfo
exit 0
