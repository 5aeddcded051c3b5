#!/bin/sh
# Tests work in /dev/shm: on ext4 in a machine for tests, since a tmpfs takes user xattrs and idmapped mounts from Linux
# 6.6 on only. As root; once a start.
set -eu
[ "$(stat -f -c %T /dev/shm)" = tmpfs ] || exit 0
truncate -s 3G /var/tmp/shm
mkfs.ext4 -q -F -O ^has_journal /var/tmp/shm
mount -o loop,discard /var/tmp/shm /dev/shm
chmod 1777 /dev/shm
