#!/bin/sh
# The integration tests, as root, in the machine that this runs in. Vagrant's `test` provisioner.
#   vm/test.sh [PYTEST ARGUMENTS]   default: tests/integration; on an emulated processor pytest runs those marked `vm`
set -eu
cd "${MINIDOCK_SRC:-/src}"
[ "$(id -u)" = 0 ] || exec sudo -n -- sh "$0" "$@"
python=/opt/minidock/bin/python3
if systemd-detect-virt --quiet --vm; then
    sh vm/scratch.sh
    MINIDOCK_VM=1
    export MINIDOCK_VM
    if [ "$(systemd-detect-virt)" = qemu ]; then
        MINIDOCK_EMULATED=1
        export MINIDOCK_EMULATED
    fi
fi
[ $# -gt 0 ] || set -- tests/integration
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE
exec "$python" -m pytest -q -rs "$@"
