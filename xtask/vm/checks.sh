# What every scenario uses. A check is a line `::STATE NAME` on standard output: `ok`, `FAILED`, or `refused` for what this
# kernel cannot do and says so; a line behind it that begins with two colons and a blank says more. The host measures times:
# a guest's clock runs fast on a busy machine. Owns /tmp/said, what the last command printed.
# From the host: EBPF, EROFS (yes or no: what this kernel must be able to do), NEED (what the product says that it lacks).
said=/tmp/said
# Runs a command, which may look at what the one before printed.
say() { "$@" > $said.next 2>&1; set -- $?; mv $said.next $said; return "$1"; }
# check NAME COMMAND...: succeeds
check() {
  _name=$1; shift
  if say "$@"; then echo "::ok $_name"; return 0; fi
  echo "::FAILED $_name"; tail -n 12 $said | sed 's/^/:: /'; return 1
}
# refused NAME WORDS COMMAND...: fails, and says the words
refused() {
  _name=$1 _words=$2; shift 2
  if say "$@"; then _what="was not refused"; elif ! grep -qF -- "$_words" $said; then _what="did not say: $_words"; else
    echo "::refused $_name"; echo ":: $(grep -F -- "$_words" $said | head -n 1)"; return 0
  fi
  echo "::FAILED $_name"; echo ":: $_what"; tail -n 12 $said | sed 's/^/:: /'; return 1
}
not() { ! "$@"; }
has() { grep -q -- "$1" "$2"; }
# whole KIND ROOT PATH...: what a reader of whole files needs, as truth
whole() { _kind=$1 _root=$2; shift 2; for _path in "$@"; do echo "truth $_kind $_path 0 $(stat -c %s "$_root/$_path")"; done; }
# cold FILE...: not from the page cache, whoever has read them before
cold() { sync; echo 3 > /proc/sys/vm/drop_caches; }
# A registry on this guest's loopback, with its storage in the working directory, and the name of what is pushed to it.
pushed=127.0.0.1:5000/scenario/app:1
registry_up() {
  printf 'version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s/registry}}\nhttp: {addr: "127.0.0.1:5000"}\n' "$PWD" > registry.yml
  docker-registry serve registry.yml > registry.log 2>&1 & registry=$!
  for _ in $(seq 600); do ! nc -z 127.0.0.1 5000 2> /dev/null || break; sleep 0.1; done
}
registry_down() { kill $registry; wait $registry 2> /dev/null; }
# layers_by_tar LAYERS DIR: what an image holds, by tar alone: its layers in order, whiteouts carried out
layers_by_tar() {
  mkdir -p "$2"
  for _layer in "$1"/*; do
    gzip -dc "$_layer" | tar -x --numeric-owner -C "$2"
    find "$2" -name '.wh.*' | while read -r _mark; do rm -rf "$_mark" "${_mark%/*}/${_mark##*/.wh.}"; done
  done
}
# Prints what is below the working directory: content, attributes of files and directories, links.
list='find bin data -type f -exec sha256sum {} + | sort -k2; find bin data -type f -exec stat -c "%n %f %s %Y %u:%g %h" {} + | sort
  find bin data -type d -exec stat -c "%n %f %u:%g" {} + | sort; find bin data -type l | sort | while read l; do echo "$l $(readlink $l)"; done'
