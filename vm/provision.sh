#!/bin/sh
# Make a machine ready for minidock: what is missing is installed, what is there is left alone. Run as root, again at will.
# Vagrant's `setup` provisioner; the box of vm/box brings everything along and needs no network.
set -eu
src=${MINIDOCK_SRC:-/src}

[ "$(id -u)" = 0 ] || { echo "provision: run as root" >&2; exit 1; }
groups=$(stat -f -c %T /sys/fs/cgroup)
[ "$groups" = cgroup2fs ] || { echo "provision: /sys/fs/cgroup is $groups, not cgroup2fs; boot without systemd.unified_cgroup_hierarchy=0" >&2; exit 1; }
[ -e "$src/minidock/entry.sh" ] || { echo "provision: no source tree in $src; vagrant rsync brings it" >&2; exit 1; }

if ! [ -x /opt/minidock/bin/minidock ]; then
    # A public box: its lists may be those of a release that has moved on since.
    apt-get -qq update --allow-releaseinfo-change
    MINIDOCK_VENV=/opt/minidock sh "$src/tests/bootstrap" setup
fi

# A command for every user of the machine: minidock needs root, the machine is theirs.
rm -f /usr/local/bin/minidock
cat >/usr/local/bin/minidock <<'SH'
#!/bin/sh
[ "$(id -u)" = 0 ] || exec sudo -n /opt/minidock/bin/minidock "$@"
exec /opt/minidock/bin/minidock "$@"
SH
chmod 755 /usr/local/bin/minidock

# Something to run: an image of the machine's own busybox.
if ! minidock images -q busybox:latest | grep -q .; then
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    mkdir -p "$tree/bin" "$tree/etc" "$tree/tmp"
    cp /bin/busybox "$tree/bin/busybox"
    "$tree/bin/busybox" --install "$tree/bin"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
    chmod 755 "$tree"
    tar -C "$tree" -c . | minidock pull-tar - --name busybox:latest
fi
minidock version --format '{{.Server.Version}}' | sed 's/^/provision: ready, minidock /'
