#!/bin/sh
# minidock's entry: the environment's own python, isolated and without `site`, since `site` and its .pth files cost
# more than the rest of a short command. Python finds its site-packages from this file's place; an editable install
# is found by the one line of its .pth file. Without a python beside it (a system-wide install) it takes python3 with
# `site`, as any script would.
self=$0
case $self in */*) ;; *) self=$(command -v -- "$self") ;; esac
while [ -L "$self" ]; do
    target=$(readlink -- "$self")
    case $target in /*) self=$target ;; *) self=${self%/*}/$target ;; esac
done
bin=${self%/*}
if [ -x "$bin/python3" ] && [ -e "$bin/activate" ]; then
    exec "$bin/python3" -I -S -c '
import sys
site = f"{sys.argv[1]}/../lib/python3.{sys.version_info[1]}/site-packages"
sys.argv[:2] = ["minidock"]
sys.path.append(site)
try:
    import minidock
except ModuleNotFoundError:
    with open(site + "/_minidock.pth") as lines:
        sys.path.append(lines.readline().strip())
from minidock.__main__ import main
main()
' "$bin" "$@"
fi
exec python3 -I -c '
import sys
sys.argv[0] = "minidock"
from minidock.__main__ import main
main()
' "$@"
