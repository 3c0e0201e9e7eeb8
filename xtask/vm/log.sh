# What the kernel said of us since it was booted: no warning, no oops, nothing of ours.
. /vm/checks.sh
dmesg -r > /tmp/kernel
# Not the lines of a call trace, nor that a busy machine lets a guest's processor wait.
bad() { grep -E '^<[0-4]>' /tmp/kernel | grep -iE 'warning: |bug: |oops|erofs|fuse|overlay|bpf' | grep -vE 'ommand line|soft lockup|Modules linked|[+]0x'; }
check "kernel's log" not bad
exit 0
