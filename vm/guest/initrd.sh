#!/bin/busybox sh
# The first program: load what reaches the root, hand it the modules, go there.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null

fail() {
    echo "vm: $*" >/dev/console
    poweroff -f
}

for module in virtio_pci virtio_blk virtio_console virtio_net crc32c_generic crc32c_intel ext4; do
    modprobe "$module" 2>/dev/null
done
tries=0
while ! [ -b /dev/vda ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || fail "the root disk did not appear"
    usleep 100000
done
mkdir -p /root
mount -t ext4 -o rw /dev/vda /root || fail "the root disk cannot be mounted"
mkdir -p /root/lib/modules
cp -a "/lib/modules/$(uname -r)" /root/usr/lib/modules/ 2>/dev/null || {
    mkdir -p /root/usr/lib/modules
    cp -a "/lib/modules/$(uname -r)" /root/usr/lib/modules/
}
init=/sbin/init
for word in $(cat /proc/cmdline); do
    case $word in init=*) init=${word#init=} ;; esac
done
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
exec switch_root /root "$init" || fail "the root has no $init"
