# The main job once: what the machine has, four ways of recording, an index and a pack, a registry, and lazy starts by the
# kernel's EROFS and by FUSE, whose content must be that of the same layers unpacked by tar.
. /vm/checks.sh
mkdir -p /var/smoke; cd /var/smoke || exit 9
image=oci:/img/app:1
check "doctor" soci doctor
cp $said doctor
if [ "$EBPF" = yes ]; then wants="ok *ebpf"; else wants="warn *ebpf"; fi
check "doctor: ebpf as expected" has "$wants" doctor
if [ "$EROFS" = yes ]; then wants="ok *erofs"; else wants="warn *erofs"; fi
check "doctor: erofs as expected" has "$wants" doctor
[ "$EBPF" = yes ] || check "doctor: names the kernel it needs" has "$NEED" doctor
check "doctor: nothing in the kernel's log" not sh -c 'dmesg | grep -i "erofs.*superblock"'

reads='cat /data/old /data/second > /dev/null'
record() { trace=$1; shift; soci record --image $image --state state --out out --name "$trace" "$@" -- sh -c "$reads"; }
check "record auto" record auto
cp $said auto
if [ "$EBPF" = yes ]; then wants=ebpf; else wants=fuse; fi
soci trace info out/auto.trace > info
check "record auto: by $wants" has "engine: *$wants" info
[ "$EBPF" = yes ] || check "record auto: says why by FUSE" has "$NEED" auto
check "record fuse" record fuse --engine fuse
if [ "$EBPF" = yes ]; then
  check "record ebpf" record ebpf --engine ebpf
else
  refused "record ebpf" "$NEED" record ebpf --engine ebpf
fi

registry_up
check "create" soci --root store create $image --span-size 262144 --min-layer-size 0 --trace out/fuse.trace --fine --pack
check "push" soci --root store push --image $image $pushed

layers_by_tar /img/app.layers truth
(cd truth && sh -c "$list") > truth.txt
for way in erofs fuse; do
  [ $way = fuse ] && allow=false || allow=true
  printf '[fuse]\nerofs = %s\n[pull_modes.soci_v1]\nenable = true\n' $allow > config.toml; : > mounts
  # The layers are mounted in a mount namespace of the daemon: it is looked for in all.
  (while sleep 0.05; do cat /proc/[0-9]*/mountinfo 2> /dev/null | sed 's/.* - //' | awk '$1 == "erofs" || $1 ~ /^fuse\./ { print $1 }' >> mounts; done) & poll=$!
  check "lazy start, $way" soci run --config config.toml --root run-$way $pushed -- sh -c "$list"
  kill $poll; wait $poll 2> /dev/null
  grep -Fxf truth.txt $said > same
  check "lazy start, $way: content" cmp truth.txt same
  if [ "$EROFS-$way" = yes-erofs ]; then wants=erofs; else wants=fuse.soci; fi
  check "lazy start, $way: by $wants" has "^$wants\$" mounts
done
registry_down
check "no mounts left" not grep -E ' - (fuse|erofs|overlay)' /proc/self/mountinfo
exit 0
