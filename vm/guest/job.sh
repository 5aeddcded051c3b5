#!/bin/sh
# Take the source tree and the command from the second disk, run it, hand its output, status and artifacts out.
PATH=/opt/minidock/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
HOME=/root
LC_ALL=C.UTF-8
VM_OUT=/out
MINIDOCK_VM=1
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
# Tests work in /dev/shm: on ext4 here, since a tmpfs takes user xattrs and idmapped mounts from Linux 6.6 on only.
truncate -s 3G /var/tmp/shm
mkfs.ext4 -q -O ^has_journal /var/tmp/shm
mount -o loop,discard /var/tmp/shm /dev/shm
chmod 1777 /dev/shm
if tar -xf /dev/vdb -C /src; then
    cd /src || exit 1
    sh /src/.vm-command >"$output" 2>&1 </dev/null
    echo $? >/run/vm-status
else
    echo "vm: the source tree did not arrive" >"$output"
    echo 125 >/run/vm-status
fi
tar -cf /dev/vdc -C /out .
sync
cat /run/vm-status >"$status"
if [ "$$" != 1 ] && [ -d /run/systemd/system ]; then systemctl --force --force --no-wall poweroff; fi
