# What the kernel said of us since it was booted: no warning, no oops, nothing of ours.
. /vm/checks.sh
dmesg -r > /tmp/kernel
# Not that a kernel before 6.12 mounts no images from files, which is tried once.
# Not the lines of a call trace, nor that a busy machine lets a guest's processor wait.
bad() { grep -E '^<[0-4]>' /tmp/kernel | grep -iE 'warning: |bug: |oops|erofs|fuse|overlay|bpf' | grep -vE 'open blockdev|ommand line|soft lockup|Modules linked|[+]0x'; }
check "kernel's log" not bad
exit 0
