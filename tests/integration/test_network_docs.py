"""docs/networks.md does what it says: its commands run as they stand, and name what there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests import builders
from tests.house.test_readme import environment, remove_containers
from tests.integration.test_networks import links

PAGE = (Path(__file__).resolve().parents[2] / "docs/networks.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_commands_run(scratch: Path, busybox_layer: bytes) -> None:
    layer = busybox_layer[: -len(builders.END)] + builders.symlink(b"bin/ping", b"busybox") + builders.END
    archive = builders.docker_archive(scratch / "tiny.tar", builders.ImageSpec([layer], tags=["tiny:1"]))
    builders.run_command("minidock", "pull-tar", archive, env=environment(scratch))
    assert BLOCKS
    try:
        for script in BLOCKS:
            done = builders.run_command("sh", "-eux", "-c", script, cwd=scratch, env=environment(scratch))
            assert done.stdout.count("1 packets received") == 2
            assert '"IPv4Address": "10.7.0.9/24"' in done.stdout
    finally:
        remove_containers(scratch)
        subprocess.run(["minidock", "network", "prune", "-f"], env=environment(scratch), check=False)


def test_what_is_made_is_what_is_told(scratch: Path, busybox_layer: bytes) -> None:
    archive = builders.docker_archive(scratch / "t.tar", builders.ImageSpec([busybox_layer], tags=["tiny:1"]))
    builders.run_command("minidock", "pull-tar", archive, env=environment(scratch))
    before = set(links())
    builders.run_command("minidock", "run", "--rm", "tiny:1", "true", env=environment(scratch))
    made = {name for name in set(links()) - before if not name.startswith("veth")}
    assert len(made) == 1 and re.fullmatch(r"md-[0-9a-f]{10}", made.pop())
    assert "table inet minidock" in builders.run_command("nft", "list", "tables").stdout
    kept = scratch / "root/minidock/network/net.ipv4.ip_forward.before"
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
    assert not kept.exists() or kept.read_text() == "0\n"
    assert str(kept).endswith(PAGE.split("`DATA-ROOT/")[1].split("`")[0])
