"""--explain's shell lines, given back to a shell: the same root, the same process, the same hashes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import builders
from tests.integration.tool import Tool

PROGRAMS = (
    "sh mount umount mkdir rmdir mknod ln stat chmod chown hostname ip setpriv env cat id tr grep ls sed sleep readlink"
)

# What a process sees of its container, in lines that do not tell one start from another.
LOOK = """cat /proc/self/mountinfo
echo == devices; ls -lnR --time-style=+ /dev
echo process; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs)' /proc/self/status; env; pwd; umask
for each in mnt pid uts ipc net cgroup; do [ "$(readlink /proc/self/ns/$each)" ] && echo "namespace $each"; done
cat /proc/self/cgroup; hostname
[ "$1" = --net=host ] || { ip -o addr | sed 's/@if[0-9]*//; s/^[0-9]*//'; ip route; }
cat /proc/self/limits /proc/self/oom_score_adj
stat -c '%n %A %u %g' / /tmp /mnt /etc /etc/hosts /proc /sys /dev/shm /dev/pts
cd /proc/sys/net; cat ipv4/ping_group_range ipv4/ip_unprivileged_port_start core/somaxconn"""


def tools_layer() -> bytes:
    """A root with the host's own mount, mknod, setpriv and so on, and the libraries they load."""
    members = [builders.directory(name) for name in (b"bin", b"etc", b"root", b"mnt", b"data")]
    members.append(builders.directory(b"tmp", mode=0o1751))
    libraries: set[str] = set()
    for name in PROGRAMS.split():
        program = shutil.which(name)
        assert program, name
        members.append(builders.tar_member(b"bin/" + name.encode(), Path(program).read_bytes(), mode=0o755))
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        libraries.update(re.findall(r"(/\S+) \(0x", listed))
    for library in sorted(libraries):
        data = Path(library).read_bytes()
        members.append(builders.tar_member(library.lstrip("/").encode(), data, mode=0o755))
    members.append(builders.tar_member(b"etc/passwd", b"root:x:0:0::/root:/bin/sh\nanna:x:1000:1000::/mnt:/bin/sh\n"))
    members.append(builders.tar_member(b"etc/group", b"root:x:0:\nanna:x:1000:\naudio:x:29:anna\nvideo:x:44:\n"))
    return builders.layer_tar(*members)


@pytest.fixture(scope="module")
def tools_archive(session_scratch: Path) -> Path:
    config = builders.image_config([tools_layer()], config={"Env": ["PATH=/bin"], "Cmd": ["sh"]})
    image = builders.ImageSpec([tools_layer()], tags=["tools:1"], config=config)
    return builders.docker_archive(session_scratch / "tools.tar", image)


@pytest.fixture
def tools(tool: Tool, tools_archive: Path) -> Tool:
    tool.good("load", "-i", tools_archive)
    return tool


def comparable(text: str) -> list[str]:
    """What LOOK printed, without the numbers that the kernel gives each mount; the mounts sorted by target."""
    table, _, rest = text.partition("== devices\n")
    mounts = []
    for line in table.splitlines():
        left, right = line.split(" - ")
        _, _, _, root, target, options, *propagation = left.split()
        words = [re.sub(r":\d+", "", word) for word in propagation]
        # The kernel shows this for the first mount of an upper directory alone.
        right = right.replace(",uuid=on", "")
        mounts.append(" ".join([target, root, options, *words, right]))
    assert len(mounts) > 10
    return [*sorted(mounts), *re.sub(r"^total \d+\n", "", rest, flags=re.M).splitlines()]


def shell_steps(steps: str) -> str:
    """Every line of --explain; those that are no shell lines are comments."""
    lines = steps.splitlines()
    assert all(line.startswith("# ") for line in lines if re.match(r"\S*/overlay2/", line))
    return "".join(f"{line}\n" for line in lines)


def replay(steps: str) -> str:
    """Run the lines of a start in sh."""
    done = subprocess.run(
        ["sh"], input=shell_steps(steps), capture_output=True, text=True, check=False, timeout=60, cwd="/"
    )
    # A kernel may not give every control group to the namespace; the start leaves such a one out, as this does.
    unexpected = [line for line in done.stderr.splitlines() if "/sys/fs/cgroup" not in line]
    assert (done.returncode, unexpected) == (0, []), done.stderr
    return done.stdout


START_OPTIONS = (
    "",
    "--net=host",
    "--net=none --read-only --tmpfs /tmp --tmpfs /mnt:mode=700,size=1m,noatime,exec -v {host}:/data:ro -v {host}/f:/f",
    "--net=none -v {host}:/new/data -v {host}/f:/new/f:ro -v {host}:/dev/here -w /work/here -u anna --group-add video",
    "--net=none -u 1234:29 --cap-drop ALL --cap-add CHOWN --security-opt no-new-privileges -h box -e A=1 -e HOME=/x",
    "--net=none --privileged -v {host}:/sys/firmware --sysctl net.core.somaxconn=77 --ulimit nofile=100:200",
    "--net=none --oom-score-adj 500 --uts host --shm-size 1m -m 64m --pids-limit 50 -v {host}:/tmp",
)


@pytest.mark.parametrize("options", START_OPTIONS)
def test_replayed_start_makes_the_same_container(tools: Tool, scratch: Path, options: str) -> None:
    host = scratch / "a host's directory"
    host.mkdir()
    (host / "f").write_text("x")
    words = [word.replace("{host}", str(host)) for word in options.split()]
    # So that the bridge is there for both.
    tools.good("run", "--rm", *words, "tools:1", "sh", "-c", ":")
    # The host's own links may change meanwhile.
    done = tools("run", "--explain", "--name", "one", *words, "tools:1", "sh", "-c", LOOK, "look", *words[:1])
    assert done.returncode == 0, done.stderr
    again = replay(done.stderr)
    assert comparable(again) == comparable(done.stdout)
    # The replay has taken all its own away again.
    assert "/.old" not in tools.good("diff", "one")
    assert (host / "f").read_text() == "x"


def test_steps_without_a_shell_form_are_comments(tools: Tool, scratch: Path) -> None:
    host = scratch / "host"
    host.mkdir()
    words = ("run", "--explain", "--rm", "--init", "--network", "none", "-v", f"{host}:/data:rslave")
    subprocess.run(["mount", "--bind", host, host], check=True)
    try:
        subprocess.run(["mount", "--make-shared", host], check=True)
        done = tools(*words, "tools:1", "sh", "-c", "exit 3")
    finally:
        subprocess.run(["umount", host], check=True)
    assert done.returncode == 3
    comments = [line for line in done.stderr.splitlines() if line.startswith("# ")]
    for part in ("open_tree(", 'pivot_root(".", ".")', "propagation", "seccomp(", "fork: ", "keyctl("):
        assert any(part in line for line in comments), part
    lines = done.stderr.splitlines()
    assert lines[-2:] == ["ENTERED1", "CLONED"]
    held = next(number for number, line in enumerate(lines) if "open_tree(" in line)
    assert held < next(number for number, line in enumerate(lines) if "pivot_root" in line)


def test_hash_lines_compute_what_they_say(tool: Tool, scratch: Path) -> None:
    """Chain IDs, image IDs and, of an archive in a file, diff_ids, each computed once more by its own line."""
    layers = [builders.layer_tar(builders.tar_member(b"it's one", b"1")), builders.layer_tar(builders.directory(b"d"))]
    told = []
    for style, compress in (("v1", None), ("v1", "gzip"), ("oci", "zstd")):
        layers.append(builders.layer_tar(builders.tar_member(style.encode() + str(compress).encode(), b"x")))
        path = scratch / f"an archive {style} {compress}.tar"
        packer = None if compress is None else _packer(compress)
        builders.docker_archive(path, builders.ImageSpec(layers, tags=["h:1"]), style=style, compress=packer)
        told.append(tool("load", "--explain", "-i", path).stderr)
    tool.good("run", "--name", "edit", "busybox:test", "sh", "-c", "echo x >/new")
    told.append(tool("commit", "--explain", "edit", "h:2").stderr)
    counts: dict[str, int] = {}
    for line in "".join(told).splitlines():
        found = re.fullmatch(r"((?!#).*sha256sum.*)  # (\w+) = sha256:([0-9a-f]{64}).*", line)
        if found is None:
            assert "sha256sum" not in line, line
            continue
        command, what, expected = found.groups()
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
        assert done.stdout.split()[0] == expected, line
        counts[what] = counts.get(what, 0) + 1
    # Three layers, then three known and one, then four and one; all but the bottom one hash two IDs; and the commit's.
    assert counts == {"diff_id": 3 + 4 + 5, "chain_id": 2 + 1 + 1 + 1, "image_id": 4}


def _packer(name: str) -> object:
    def pack(data: bytes) -> bytes:
        return subprocess.run([name, "-c"], input=data, capture_output=True, check=True).stdout

    return pack
