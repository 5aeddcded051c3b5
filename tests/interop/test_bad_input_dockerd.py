"""Bad input side by side with docker 20.10: the same exit code, and docker's words in ours; nothing is left of it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Engine
from tests.integration.tool import Tool

BOX = "busybox:test"
# Words of the options, of the command, and what both must say.
RUNS = (
    ("-u nosuchuser", "true", "unable to find user nosuchuser"),
    ("-u 99999999999", "true", "uids and gids must be in range 0-2147483647"),
    ("-u 0:nosuchgroup", "true", "nosuchgroup"),
    ("--group-add nosuch", "true", "nosuch"),
    ("--cap-add NOSUCH", "true", 'invalid CapAdd: unknown capability: "CAP_NOSUCH"'),
    ("--cap-drop bogus", "true", 'invalid CapDrop: unknown capability: "CAP_BOGUS"'),
    ("--stop-signal BOGUS", "true", "Invalid signal: BOGUS"),
    ("--sysctl kernel.bogus=1", "true", "sysctl 'kernel.bogus=1' is not"),
    ("--sysctl net.ipv4.bogus=1", "true", "open /proc/sys/net/ipv4/bogus: no such file or directory"),
    ("--device /dev/nosuch", "true", 'custom device "/dev/nosuch": no such file or directory'),
    ("--device relative", "true", "relative is not an absolute path"),
    ("--mount type=bind,source=/nosuch,target=/x", "true", "bind source path does not exist: /nosuch"),
    ("--mount type=bind,source=rel,target=/x", "true", "invalid mount path: 'rel' mount path must be absolute"),
    ("--mount type=bind,source=/tmp,target=x", "true", "invalid mount path: 'x' mount path must be absolute"),
    ("--mount type=bind,target=/x", "true", "field Source must not be empty"),
    ("--mount type=bogus,target=/x", "true", "mount type unknown"),
    ("--mount bogus", "true", "invalid field 'bogus' must be a key=value pair"),
    ("-v /tmp:rel", "true", "invalid mount path: 'rel' mount path must be absolute"),
    ("-v /tmp:/", "true", "destination can't be '/'"),
    ("-v /tmp:/x:bogus", "true", "invalid mode: bogus"),
    ("-v /tmp:/x:nocopy", "true", "field VolumeOptions must not be specified"),
    ("-v named:/x:rslave", "true", "field BindOptions must not be specified"),
    ("--device-read-bps /dev/nosuch:1mb", "true", "stat /dev/nosuch: no such file or directory"),
    ("--tmpfs rel", "true", "invalid mount path: 'rel' mount path must be absolute"),
    ("--tmpfs /x:bogus", "true", 'invalid tmpfs option ["bogus"]'),
    ("--rm --restart always", "true", "Conflicting options: --restart and --rm"),
    ("--no-healthcheck --health-cmd x", "true", "--no-healthcheck conflicts with --health-* options"),
    ("--pid bogus", "true", "--pid: invalid PID mode"),
    ("--uts bogus", "true", "--uts: invalid UTS mode"),
    ("-w relative", "true", "the working directory 'relative' is invalid, it needs to be an absolute path"),
    ("", "/etc", 'exec: "/etc": permission denied'),
    ("", "/etc/passwd", 'exec: "/etc/passwd": permission denied'),
    ("", "nosuchcommand", 'exec: "nosuchcommand": executable file not found in $PATH'),
    ("", "/nosuch/x", 'exec: "/nosuch/x": stat /nosuch/x: no such file or directory'),
    ("--entrypoint /etc", "", 'exec: "/etc": permission denied'),
    ("--name taken", "true", 'The container name "/taken" is already in use by container'),
    ("--name -x", "true", "Invalid container name (-x)"),
    ("--ulimit bogus=1", "true", "invalid ulimit type: bogus"),
    ("--ulimit nofile=5:1", "true", "ulimit soft limit must be less than or equal to hard limit: 5 > 1"),
    ("--oom-score-adj 2000", "true", "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
    ("--shm-size x", "true", """invalid argument "x" for "--shm-size" flag: invalid size: 'x'"""),
    ("--log-opt bogus=1", "true", "unknown log opt 'bogus' for json-file log driver"),
    ("--env-file /nosuch", "true", "open /nosuch: no such file or directory"),
    ("--label-file /nosuch", "true", "open /nosuch: no such file or directory"),
    ("-e =x", "true", "invalid environment variable: =x"),
    (
        "--cidfile /nosuch/x",
        "true",
        "failed to create the container ID file: open /nosuch/x: no such file or directory",
    ),
    ("--restart on-failure:x", "true", "maximum retry count must be an integer"),
    ("--health-interval 1us", "true", "Interval in Healthcheck cannot be less than 1ms"),
    ("--volumes-from nosuch", "true", "No such container: nosuch"),
    ("--volumes-from taken:bogus", "true", "invalid mode: bogus"),
    ("-m 1k", "true", "Minimum memory limit allowed is 6MB"),
)
# Words of the options, and the code: 125 where the client refuses the words itself, 1 where the engine does.
CREATES = (
    ("-m abc", 125),
    ("-m 1k", 1),
    ("--cpus x", 125),
    ("--cpus 100", 1),
    ("--cpu-shares x", 125),
    ("--pids-limit x", 125),
    ("--memory-swappiness 200", 125),
    ("--device-read-bps /dev/null:x", 125),
    ("--ulimit bogus=1", 125),
    ("--ulimit nofile=5:1", 125),
    ("--sysctl bogus", 125),
    ("--cap-add NOSUCH", 1),
    ("--device rel", 125),
    ("--device /dev/null:/dev/x:q", 125),
    ("--device-cgroup-rule bogus", 125),
    ("-e =", 125),
    ("--env-file /nosuch", 125),
    ("-l =x", 125),
    ("--label-file /nosuch", 125),
    ("--mount bogus", 125),
    ("--mount source=/a", 125),
    ("--mount type=bogus,target=/x", 1),
    ("--mount type=bind,target=/x", 1),
    ("--mount type=bind,source=/nosuch,target=/x", 1),
    ("--mount type=volume,target=/x,readonly=x", 125),
    ("--mount type=volume,target=/x,bind-propagation=shared", 125),
    ("--mount type=tmpfs,target=/x,tmpfs-size=x", 125),
    ("--mount type=tmpfs,target=/x,tmpfs-mode=9", 125),
    ("-v /a:rel", 1),
    ("-v /x:/y:zz", 1),
    ("--tmpfs rel", 1),
    ("--volumes-from nosuch", 1),
    ("--volumes-from taken:bogus", 1),
    ("-p bogus", 125),
    ("-p 1.2.3:80:80", 125),
    ("--expose x", 125),
    ("--mac-address zz", 125),
    ("--network-alias x", 125),
    ("--add-host x:y", 125),
    ("--dns x", 125),
    ("--pid bogus", 125),
    ("--pid container:nosuch", 1),
    ("--uts bogus", 125),
    ("--userns bogus", 125),
    ("--cgroupns bogus", 125),
    ("--security-opt bogus", 125),
    ("--security-opt seccomp=/nosuch", 125),
    ("--security-opt no-new-privileges:x", 1),
    ("--storage-opt x", 125),
    ("--isolation bogus", 1),
    ("--runtime bogus", 1),
    ("--restart bogus", 1),
    ("--restart on-failure:x", 125),
    ("--restart always --rm", 125),
    ("--stop-signal BOGUS", 1),
    ("--stop-timeout x", 125),
    ("--shm-size x", 125),
    ("--oom-score-adj 5000", 1),
    ("--health-interval 1", 125),
    ("--health-interval 1us", 1),
    ("--health-retries -1", 125),
    ("--health-cmd x --no-healthcheck", 125),
    ("--cidfile /nosuch/x", 1),
    ("--name taken", 1),
    ("-w rel", 1),
    ("--nosuch", 125),
)
# The engine's own words, where ours say more or other.
OTHER_WORDS = {"--runtime bogus", "--health-interval 1", "--userns bogus"}
COMMANDS = (
    "kill -s BOGUS taken",
    "kill stopped",
    "rename taken stopped",
    "rename taken -x",
    "rename nosuch y",
    "update -m 1k taken",
    "update --restart bogus taken",
    "pause stopped",
    "unpause taken",
    "top stopped",
    "attach stopped",
    "logs --since x taken",
    "rm taken",
    "port taken 80",
    "cp taken:/nosuch /tmp/x",
    "cp taken:/x stopped:/y",
    "cp a b",
    "start -a taken stopped",
    "commit -c bogus taken",
    'commit -c SHELL["/x"] taken',
    "exec stopped true",
    "exec -e = taken true",
    "exec --env-file /nosuch taken true",
    "update taken",
    "update -m abc taken",
    "ps --filter x",
    "ps --filter bogus=1",
    "ps -a --filter before=nosuch",
    "images --filter x",
    "volume ls --filter bogus=1",
    "volume rm nosuch",
    "volume create x",
    "inspect --type volume nosuch",
    "inspect --type bogus taken",
)


class Pair:
    """The same command for both, each with a container that runs and one that has ended."""

    def __init__(self, tool: Tool, engine: Engine) -> None:
        self.tool = tool
        self.engine = engine

    def __call__(self, *words: str) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
        return self.tool(*words), self.engine.docker(*words, check=False)


@pytest.fixture(scope="module")
def pair(dockerd: Engine, session_scratch: Path, busybox_archive: Path) -> Iterator[Pair]:
    tool = Tool(session_scratch / "bad-input-root", busybox_archive)
    dockerd.docker("load", "-i", str(busybox_archive))
    both = Pair(tool, dockerd)
    names = ("taken", "stopped")
    both("run", "-d", "--name", "taken", "--network", "none", BOX, "sleep", "1000")
    both("run", "--name", "stopped", "--network", "none", BOX, "true")
    yield both
    dockerd.docker("rm", "-f", *names, check=False)
    tool("rm", "-f", *names)
    tool.close()


def first_line(text: str) -> str:
    """The message without who says it, whose name is in it, and how to get help."""
    line = text.split("\n")[0]
    for prefix in ("minidock: ", "docker: ", "Error response from daemon: ", "Error: "):
        line = line.removeprefix(prefix)
    return re.sub("[0-9a-f]{64}", "ID", line).rstrip(".")


@pytest.mark.parametrize(("options", "command", "words"), RUNS)
def test_run(pair: Pair, options: str, command: str, words: str) -> None:
    line = ["run", *options.split(), "--network", "none", BOX, *command.split()]
    ours, theirs = pair(*line)
    left, their_left = pair("ps", "-a", "--format", "{{.Names}} {{.State}}")
    kept = [row for row in left.stdout.split("\n") if row and not row.startswith(("taken ", "stopped "))]
    their_kept = [row for row in their_left.stdout.split("\n") if row and not row.startswith(("taken ", "stopped "))]
    for row in kept:
        pair.tool("rm", row.split()[0])
    for row in their_kept:
        pair.engine.docker("rm", row.split()[0])
    assert words in theirs.stderr, theirs.stderr
    assert words in ours.stderr.split("\n")[0], ours.stderr
    assert ours.returncode == theirs.returncode
    assert "Traceback" not in ours.stderr
    # docker keeps a container whose start failed; so do we, unless it was refused before there was any.
    assert {row.split()[1] for row in kept} <= {row.split()[1] for row in their_kept}


@pytest.mark.parametrize(("options", "code"), CREATES)
def test_create(pair: Pair, options: str, code: int) -> None:
    """125 for an option's value that docker's client refuses itself, 1 for what its engine refuses."""
    ours, theirs = pair("create", "--network", "none", *options.split(), BOX, "true")
    assert (ours.returncode, theirs.returncode) == (code, code), (ours.stderr, theirs.stderr)
    if options not in OTHER_WORDS:
        assert first_line(ours.stderr).startswith(first_line(theirs.stderr)), (ours.stderr, theirs.stderr)


@pytest.mark.parametrize("line", COMMANDS)
def test_other_commands(pair: Pair, line: str) -> None:
    words = [word.replace("SHELL[", "SHELL [") for word in line.split()]
    ours, theirs = pair(*words)
    assert ours.returncode == theirs.returncode != 0
    said, expected = first_line(ours.stderr), first_line(theirs.stderr)
    # A hint in brackets may follow.
    assert said.startswith(expected), (said, expected)


FILTERS = (
    "ancestor=busybox:test", "before=stopped", "since=taken", "exited=0", "exited=7", "health=none", "is-task=false",
    "is-task=true", "label=k", "name=^tak", "network=none", "network=host", "publish=80", "expose=80-90/tcp",
    "status=running", "status=exited", "volume=nosuch", "id=zz",
)  # fmt: skip


@pytest.mark.parametrize("condition", FILTERS)
def test_filters_of_ps(pair: Pair, condition: str) -> None:
    ours, theirs = pair("ps", "-a", "--filter", condition, "--filter", "name=t[ao]", "--format", "{{.Names}}")
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode)


LIMITS = ("MemoryLimit", "SwapLimit", "KernelMemory", "CPUShares", "CPUSet", "PidsLimit", "OomKillDisable")


def test_documented_fields(pair: Pair) -> None:
    fields = "{{.Mounts}}|{{.LocalVolumes}}|{{.Networks}}|{{.Ports}}|{{.Labels}}|{{.State}}|{{.Command}}|{{.Image}}"
    ours, theirs = pair(
        "create", "--name", "fields", "-v", "named:/x", "-v", "/tmp:/y", "--network", "none", BOX, "true"
    )
    try:
        assert ours.returncode == theirs.returncode == 0
        ours, theirs = pair("ps", "-a", "--filter", "name=fields", "--format", fields)
        assert sorted(ours.stdout.split("|")[0].split(",")) == sorted(theirs.stdout.split("|")[0].split(","))
        assert ours.stdout.split("|")[1:] == theirs.stdout.split("|")[1:]
        for words in (("inspect", "named"), ("inspect", "--type", "volume", "named")):
            ours, theirs = pair(*words)
            document, their_document = json.loads(ours.stdout)[0], json.loads(theirs.stdout)[0]
            assert list(document) == list(their_document) and document["Name"] == "named"
        names = " ".join(f"{{{{.{name}}}}}" for name in LIMITS)
        ours, theirs = pair("info", "--format", names)
        assert ours.stdout == theirs.stdout
    finally:
        pair("rm", "-f", "fields")
        pair("volume", "rm", "named")
