# Lazy starts in all ways: what is fetched ahead, EROFS and FUSE, and many readers while the page cache is emptied.
. /vm/checks.sh
mkdir -p /var/starts; cd /var/starts || exit 9
registry_up
reads='cat /data/old /data/second /data/many/* > /dev/null'
check "starts: record" soci record --image oci:/img/app:1 --engine fuse --state state --out out --name t -- sh -c "$reads"
check "starts: create" soci --root store create oci:/img/app:1 --span-size 262144 --min-layer-size 0 --trace out/t.trace --fine --pack
check "starts: push" soci --root store push --image oci:/img/app:1 $pushed
layers_by_tar /img/app.layers truth
(cd truth && sh -c "$list") > truth.txt
# start NAME EROFS PREFETCH PACK COMMAND
start() {
  printf '[fuse]\nerofs = %s\n[prefetch]\nenable = %s\n[pack]\nenable = %s\nfine = %s\n[pull_modes.soci_v1]\nenable = true\n' "$2" "$3" "$4" "$4" > config.toml
  check "starts: $1" soci run --config config.toml --root "run-$2-$3-$4" $pushed -- sh -c "$5"
}
for erofs in true false; do
  for way in prefetch pack; do
    [ $way = pack ] && pack=true || pack=false
    start "$way, erofs = $erofs" $erofs true $pack "$list"
    grep -Fxf truth.txt $said > same
    check "starts: $way, erofs = $erofs: content" cmp truth.txt same
  done
  (while sleep 0.1; do echo 3 > /proc/sys/vm/drop_caches; done) & drops=$!
  start "15 readers, erofs = $erofs" $erofs false false 'for n in 1 2 3; do for f in text second hard old many/99; do sha256sum /data/$f & done; wait; done | sort | uniq -c | grep -c "^ *3 "'
  kill $drops; wait $drops 2> /dev/null
  check "starts: 15 readers, erofs = $erofs: agree" grep -qx 5 $said
done
registry_down
check "starts: no mounts left" not grep -E ' - (fuse|erofs|overlay)' /proc/self/mountinfo
exit 0
