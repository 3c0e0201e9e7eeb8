#!/bin/sh
# Puts soci on a Kubernetes node and starts it under the node's own systemd, so that the end of this pod is not the end of the
# daemon: a rollout replaces the program, readers wait for the new one, and mounts stay.
#
# Runs in the pod of packaging/chart (hostPID, the node's / at $SOCI_HOST), with busybox. Owns the files that it lists below.
#   install  put the files, start or hand over        ready  is the daemon running?
#   keep     install, then wait for the pod's end     gone   is nothing of soci left?
#   remove   unmount everything, remove the files     remove-and-wait
set -eu

host=${SOCI_HOST:-/host}
image=${SOCI_IMAGE:-/}
bin=${SOCI_BIN_DIR:-/opt/soci/bin}
root=${SOCI_ROOT:-/var/lib/soci-snapshotter-grpc}
config=${SOCI_CONFIG:-}             # a file here, for /etc/soci-snapshotter-grpc/config.toml there
dropin=${SOCI_CONTAINERD_CONFIG:-}  # a file here, for $SOCI_CONTAINERD_PATH there
dropin_path=${SOCI_CONTAINERD_PATH:-}
containerd_unit=${SOCI_CONTAINERD_UNIT:-}  # is restarted when its file has changed; empty: never
starter=${SOCI_STARTER:-unit}       # unit: files in /etc/systemd/system; transient: systemd-run, for nodes where /etc is not ours
init=${SOCI_INIT_PID:-1}            # the node's systemd, as this pod sees it
socket=${SOCI_SOCKET:-/run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock}
unit=soci-snapshotter

say() { echo "soci: $*"; }
die() { echo "soci: $*" >&2; exit 1; }

# Runs a program of the node, in its mount namespace.
on_node() { PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin nsenter -t "$init" -m -- "$@"; }

# put MODE FROM TO: true if the node's file had to be changed. It is replaced as a whole, also while it runs.
put() {
    if cmp -s "$2" "$host$3" && [ "$(stat -c %a "$host$3")" = "$1" ]; then return 1; fi
    mkdir -p "$(dirname "$host$3")"
    cp "$2" "$host$3.new"
    chmod "$1" "$host$3.new"
    mv -f "$host$3.new" "$host$3"
    say "wrote $3"
}

install() {
    [ -d "$host/proc" ] || die "$host is not the root of a node"
    changed=
    for program in soci soci-snapshotter-grpc; do
        if put 755 "$image/usr/bin/$program" "$bin/$program"; then changed=1; fi
    done
    if [ -n "$config" ] && put 644 "$config" /etc/soci-snapshotter-grpc/config.toml; then changed=1; fi
    case $starter in
    unit) start_unit ;;
    transient) start_transient ;;
    *) die "SOCI_STARTER=$starter: unit or transient" ;;
    esac
    if [ -n "$dropin_path" ] && put 644 "$dropin" "$dropin_path"; then
        if [ -n "$containerd_unit" ]; then
            on_node systemctl restart "$containerd_unit"
        else
            say "restart containerd on this node, so that it reads $dropin_path"
        fi
    fi
}

start_unit() {
    # /tmp of this pod.
    for kind in socket service; do
        sed "s|@BIN@|$bin|; s|@SOCKET@|$socket|; s|@FLAGS@|--root $root|" "$image/usr/share/soci/$unit.$kind" >"/tmp/$unit.$kind"
        if put 644 "/tmp/$unit.$kind" "/etc/systemd/system/$unit.$kind"; then changed=1; fi
    done
    on_node systemctl daemon-reload
    on_node systemctl enable --quiet "$unit.socket" "$unit.service"
    on_node systemctl start "$unit.socket"
    if [ -n "$changed" ]; then on_node systemctl restart "$unit.service"; else on_node systemctl start "$unit.service"; fi
}

start_transient() {
    # The holder of the mounts stays in the unit, and with it the unit stays known when it is stopped.
    if on_node systemctl cat "$unit.service" >/dev/null 2>&1; then
        # Readers wait until the next one runs.
        if [ -n "$changed" ]; then on_node systemctl restart "$unit.service"; else on_node systemctl start "$unit.service"; fi
        return
    fi
    on_node systemd-run --quiet --unit="$unit" --service-type=notify \
        --property=Restart=always --property=RestartSec=0 --property=StartLimitIntervalSec=0 \
        --property=KillMode=process --property=OOMPolicy=continue --property=OOMScoreAdjust=-999 \
        --property=LimitNOFILE=1048576 --property=TasksMax=infinity \
        "$bin/soci-snapshotter-grpc" --address "$socket" --root "$root"
}

ready() { on_node systemctl --quiet is-active "$unit.service" && [ -S "$host$socket" ]; }

gone() { [ ! -e "$host$bin/soci-snapshotter-grpc" ] && [ ! -e "$host$root" ]; }

remove() {
    on_node systemctl stop "$unit.socket" "$unit.service" 2>/dev/null || :
    if [ -x "$host$bin/soci-snapshotter-grpc" ]; then
        on_node "$bin/soci-snapshotter-grpc" --root "$root" unmount ||
            die "containers of this node use lazy layers: drain it first"
    fi
    on_node systemctl disable --quiet "$unit.socket" "$unit.service" 2>/dev/null || :
    rm -f "$host/etc/systemd/system/$unit.socket" "$host/etc/systemd/system/$unit.service"
    on_node systemctl daemon-reload
    rm -f "$host$bin/soci" "$host$bin/soci-snapshotter-grpc"
    rm -rf "${host:?}$root" "$host$(dirname "$socket")" "$host/etc/soci-snapshotter-grpc"
    rmdir -p "$host$bin" 2>/dev/null || :
    say "removed"
    if [ -n "$dropin_path" ] && [ -e "$host$dropin_path" ]; then
        say "$dropin_path stays: remove it and restart containerd"
    fi
}

wait_for_end() {
    trap 'exit 0' TERM INT
    while :; do
        sleep 3600 &
        wait $!
    done
}

case ${1:-} in
install) install ;;
keep) install; wait_for_end ;;
ready) ready ;;
gone) gone ;;
remove) remove ;;
remove-and-wait) remove; wait_for_end ;;
*) die "usage: install.sh install | keep | ready | remove | remove-and-wait | gone" ;;
esac
