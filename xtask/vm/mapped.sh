# Pages of mapped files, touched one after the other in every direction and with every advice, and files that are copied up.
# mapped.sh NAME DISK FSTYPE
. /vm/checks.sh
name=$1 disk=$2 kind=$3
mkdir -p /mnt/$name; mount -t "$kind" "/dev/disk/$disk" /mnt/$name || exit 9
cd /mnt/$name || exit 9
cat > /tmp/maps <<'MAPS'
for how in plain sequential huge backward; do reader "$1" data/map-$how map $how 1 || exit; done
reader "$1" data/map-some map plain 37 || exit
[ -n "$1" ] || echo more >> /data/map-copied
MAPS
if check "$name: mapped, --image" soci record --image oci:/img/reads:1 --state state --out /out --name "$name-maps" -- sh -c "$(cat /tmp/maps)" sh ""; then
  layers_by_tar /img/reads.layers root
  { grep '^truth ' $said; whole map-copied root data/map-copied; } > "/out/$name-maps.truth"
fi
cd /; umount /mnt/$name
exit 0
