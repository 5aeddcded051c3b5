#!/bin/sh
# vagrant_round.sh PROJECT BOX SCRATCH: a libvirtd of our own in a mount and network namespace of its own; in it the
# local box is added under the name that the Vagrantfile asks for, brought up, used, tested and destroyed.
# Started by `unshare --mount --net --propagation private`; nothing of it is left on the host.
set -eu
project=$1 box=$2 scratch=$3

ip link set lo up
for place in /etc/libvirt /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /run; do
    mkdir -p "$place"
    mount -t tmpfs -o mode=755,size=4g tmpfs "$place"
done
mkdir -p /run/lock /run/libvirt /etc/libvirt/qemu /etc/libvirt/nwfilter
cat >/etc/libvirt/qemu.conf <<'CONF'
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
cgroup_controllers = []
remember_owner = 0
CONF
printf 'unix_sock_group = "root"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n' >"$scratch/libvirtd.conf"
libvirtd -f "$scratch/libvirtd.conf" -p "$scratch/libvirtd.pid" >"$scratch/libvirtd.log" 2>&1 &
libvirtd=$!
trap 'vagrant destroy -f >/dev/null 2>&1 || true; kill $libvirtd 2>/dev/null; wait $libvirtd || true' EXIT
tries=0
until virsh -c qemu:///system version >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || { cat "$scratch/libvirtd.log"; exit 1; }
    timeout 0.2 tail -f /dev/null || true
done

export VAGRANT_HOME="$scratch/home" HOME="$scratch" VAGRANT_CWD="$project" VAGRANT_DOTFILE_PATH="$scratch/dot"
export VAGRANT_DEFAULT_PROVIDER=libvirt VAGRANT_CHECKPOINT_DISABLE=1 MINIDOCK_BOX=minidock/6.1
mkdir -p "$VAGRANT_HOME"
step() { echo "== $*"; }
step box add
vagrant box add --provider libvirt --name minidock/6.1 "file://$box"
step up
vagrant up
step ssh
vagrant ssh -c 'minidock run --rm busybox echo hello from the machine'
vagrant ssh -c 'minidock run --rm busybox sh -c "exit 5"' || echo "status $?"
step provision
vagrant provision --provision-with setup
step test
vagrant provision --provision-with test
step destroy
vagrant destroy -f
virsh -c qemu:///system list --all --name | sed '/^$/d; s/^/left: /'
# The box's own volume is the provider's cache; a machine's disk is none.
virsh -c qemu:///system vol-list default | grep -F bookworm.img | sed 's/^/left: /' || true
step done
