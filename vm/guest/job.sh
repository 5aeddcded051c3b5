#!/bin/sh
# Take the source tree and the command from the second disk, run it, hand its output, status and artifacts out.
PATH=/opt/minidock/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
LC_ALL=C.UTF-8
VM_OUT=/out
MINIDOCK_VM=1
# QEMU's own processor; KVM's is the host's.
if [ "$(systemd-detect-virt)" = qemu ]; then MINIDOCK_EMULATED=1; else MINIDOCK_EMULATED=0; fi
export MINIDOCK_EMULATED
export PATH HOME LC_ALL VM_OUT MINIDOCK_VM

# By the kernel's own names: udev's links may come later.
port() {
    for place in /sys/class/virtio-ports/*; do
        if [ "$(cat "$place/name")" = "$1" ]; then echo "/dev/${place##*/}"; fi
    done
}
output=$(port vm.out)
status=$(port vm.status)

modprobe -a overlay loop veth bridge nf_tables tun dummy 2>/dev/null
mkdir -p /src /out
if tar -xf /dev/vdb -C /src && sh /src/vm/scratch.sh; then
    cd /src || exit 1
    sh /src/.vm-command >"$output" 2>&1 </dev/null
    echo $? >/run/vm-status
else
    echo "vm: the source tree did not arrive, or there is no place for tests to work in" >"$output"
    echo 125 >/run/vm-status
fi
tar -cf /dev/vdc -C /out .
sync
cat /run/vm-status >"$status"
if [ "$$" != 1 ] && [ -d /run/systemd/system ]; then systemctl --force --force --no-wall poweroff; fi
