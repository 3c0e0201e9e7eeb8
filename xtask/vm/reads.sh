# Every page that was given to a reader is in the trace, though the disk is slower than the reader: reads run into readahead
# that is still in flight. reads.sh NAME DISK FSTYPE [SIZE...]: further sizes of reads, each of its file data/dd-SIZE
. /vm/checks.sh
name=$1 disk=$2 kind=$3; shift 3
# There, a file's device is not that of its page cache, and eBPF cannot tell which file it is.
[ $kind != btrfs ] || [ $EBPF = no ] || { EBPF=no NEED="is on btrfs"; }
mkdir -p /mnt/$name; mount -t "$kind" "/dev/disk/$disk" /mnt/$name || exit 9
cd /mnt/$name || exit 9
# The same reads below any root.
cat > /tmp/reads <<'READS'
root=$1; shift
for size in "$@"; do dd if="$root"/data/dd-$size of=/dev/null bs=$size 2>/dev/null || exit; done
cat "$root"/data/cat > /dev/null || exit
tar -c -C "$root"/data odd | cat > /dev/null || exit
reader "$root" data/sendfile sendfile 50000 && reader "$root" data/pread pread 5000 70001
READS
truth() { # ROOT SIZE...
  root=$1; shift
  for size in "$@"; do whole "dd-$size" "$root" "data/dd-$size"; done
  whole cat "$root" data/cat
  whole tar "$root" $(cd "$root" && find data/odd -type f)
  grep '^truth ' $said
}
if [ "$EBPF" = yes ]; then engine=ebpf; else engine=fuse; fi
if check "$name: record --image" soci record --image oci:/img/reads:1 --state state --out /out --name "$name-image" -- sh -c "$(cat /tmp/reads)" sh "" "$@"; then
  layers_by_tar /img/reads.layers root
  truth root "$@" > "/out/$name-image.truth"
  soci trace info "/out/$name-image.trace" > info
  check "$name: record --image: by $engine" has "engine: *$engine" info
fi
cold
rootfs() { soci record --rootfs root --out /out --name "$name-rootfs" -- sh /tmp/reads root "$@"; }
if [ "$EBPF" = yes ]; then
  if check "$name: record --rootfs" rootfs "$@"; then truth root "$@" > "/out/$name-rootfs.truth"; fi
else
  refused "$name: record --rootfs" "$NEED" rootfs "$@"
  [ $kind = btrfs ] || check "$name: record --rootfs: names --image" has --image $said
fi
cd /; umount /mnt/$name
exit 0
