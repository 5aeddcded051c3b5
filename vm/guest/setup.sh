#!/bin/sh
# Run once, in the new root image, before it is packed: users, network, environment, units.
set -eu
lib=/usr/lib/minidock-vm

echo minidock-vm >/etc/hostname
printf '127.0.0.1\tlocalhost minidock-vm\n::1\tlocalhost ip6-localhost\n' >/etc/hosts
rm -f /etc/resolv.conf /etc/machine-id
: >/etc/machine-id
echo '/dev/vda / ext4 defaults 0 1' >/etc/fstab

# minidock's environment: the system's Python, the packages that come in beside it, the source tree in /src.
mkdir -p /src /opt/minidock/bin /opt/minidock/lib/python3.11/site-packages
ln -s /usr/bin/python3 /opt/minidock/bin/python3
ln -s python3 /opt/minidock/bin/python
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11\n' >/opt/minidock/pyvenv.cfg
echo '# sh' >/opt/minidock/bin/activate
install -m 755 "$lib/entry.sh" /opt/minidock/bin/minidock
cat >/opt/minidock/bin/pytest <<'SH'
#!/bin/sh
exec /opt/minidock/bin/python3 -m pytest "$@"
SH
chmod 755 /opt/minidock/bin/pytest

# Vagrant's machine: its user, the key that it replaces at the first start, DHCP on the first card.
useradd --create-home --shell /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/vagrant
chmod 440 /etc/sudoers.d/vagrant
install -d -m 700 -o vagrant -g vagrant /home/vagrant/.ssh
install -m 600 -o vagrant -g vagrant "$lib/vagrant.pub" /home/vagrant/.ssh/authorized_keys
cat >/etc/systemd/network/20-dhcp.network <<'UNIT'
[Match]
Name=eth* en*
[Network]
DHCP=yes
[DHCPv4]
ClientIdentifier=mac
UNIT
printf 'UseDNS no\nPermitRootLogin no\n' >/etc/ssh/sshd_config.d/vagrant.conf
systemctl -q enable systemd-networkd ssh

# The machine of `vm/run`: a target of its own that needs no network and no login.
cp "$lib"/vm-*.service "$lib"/vm-*.target /etc/systemd/system/
systemctl -q disable apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer || true
# Its tool loads profiles, for dockerd and for tests; the system's own would cost an emulated processor seconds.
systemctl -q mask apparmor.service
if [ -e /usr/sbin/dockerd ]; then systemctl -q disable docker.service docker.socket containerd.service; fi
systemctl -q mask systemd-networkd-wait-online.service
chmod 755 "$lib"/job.sh "$lib"/quick.sh
