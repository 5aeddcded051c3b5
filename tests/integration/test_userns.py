"""Containers with a user namespace of their own: root inside is an ordinary user of the host."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import kernel_version, lacking
from tests.integration.conftest import SubordinateIDs
from tests.integration.test_hazards_d import PLANNED, names_between
from tests.integration.tool import Terminal, Tool, command
from tests.patience import patience

BOX = "busybox:test"
FIRST, COUNT, MODE = SubordinateIDs.FIRST, SubordinateIDs.COUNT, f"remap:{SubordinateIDs.USER}"
# docker-default, on a host that has it, keeps mount(2) from any container.
POWERFUL = ("--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined")
pytestmark = pytest.mark.usefixtures("subordinate_ids")
PROBE = (
    "id; cat /proc/self/uid_map /proc/self/gid_map; echo again > /dev/stdout; touch /made; "
    "stat -c %u:%g /made /bin /dev /"
)


@pytest.fixture(autouse=True)
def _idmapped_layers(request: pytest.FixtureRequest) -> None:
    if kernel_version() < (5, 19) and request.node.name != "test_where_files_cannot_be_shown_with_other_ids":
        lacking("no overlay over idmapped layers before Linux 5.19")


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def upper(tool: Tool, name: str) -> Path:
    """What a container has written, on the disk."""
    record = tool.root / "image/overlay2/layerdb/mounts" / str(tool.inspect(name)["Id"]) / "mount-id"
    return tool.root / "overlay2" / record.read_text() / "diff"


def test_root_inside_is_nobody_outside(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", "--userns", MODE, BOX, "sleep", "1000")
    pid = tool.inspect("box")["State"]["Pid"]
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == status["Gid"].split() == [str(FIRST)] * 4
    expected = [
        "uid=0(root) gid=0(root) groups=0(root)",
        *[f"{0:>10} {FIRST:>10} {COUNT:>10}"] * 2,
        "again",
        *["0:0"] * 4,
    ]
    assert tool.good("exec", "box", "sh", "-c", PROBE).splitlines() == expected
    assert tool.good("run", "--rm", "--userns", MODE, BOX, "sh", "-c", PROBE).splitlines() == expected
    assert owner(upper(tool, "box") / "made") == (0, 0), "on the disk, IDs are the container's own"
    # every namespace but the time's belongs to the new user namespace
    for name in ("mnt", "pid", "uts", "ipc", "net", "cgroup", "user"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name


def test_what_is_kept_from_any_container_is_kept_from_this_one(tool: Tool) -> None:
    """Flags of mounts, masks, capabilities, the filter: all as without a user namespace, IDs in mount options aside."""
    script = (
        "mount | sed 's/,gid=[0-9]*,mode=620/,gid=5,mode=620/; s/,[ug]id=7[0-9]*//g; s/,idmapped//; /^overlay/d' | "
        "sort; grep -e ^Cap -e ^Seccomp: -e ^NoNewPrivs /proc/self/status; cat /proc/keys /proc/timer_list; "
        "ls -1 /dev /sys/firmware; id -G"
    )
    for words in ((), ("--user", "1000:1000"), ("--cap-drop", "ALL", "--read-only"), ("--init",)):
        plain = tool.good("run", "--rm", *words, BOX, "sh", "-c", script)
        mapped = tool.good("run", "--rm", "--userns", MODE, *words, BOX, "sh", "-c", script)
        assert mapped == plain, words
    for script in ("mknod /n c 1 3", "umount /proc/keys", "umount /dev", "echo x > /proc/sys/kernel/core_pattern"):
        done = tool("run", "--rm", "--userns", MODE, *POWERFUL, BOX, "sh", "-c", script)
        assert done.returncode == 1 or script == "umount /proc/keys", (script, done)


def test_powers_over_what_is_its_own(tool: Tool) -> None:
    words = ("--userns", MODE, *POWERFUL, "--cap-add", "NET_ADMIN")
    script = (
        "hostname other && hostname && mount -t tmpfs x /tmp && touch /tmp/y && ip link set lo down && "
        "chown 1000 /home && id"
    )
    out = tool.good("run", "--rm", *words, BOX, "sh", "-c", script)
    assert out.splitlines() == ["other", "uid=0(root) gid=0(root) groups=0(root)"]
    # nothing of the host's mounts is below what the container may take away
    out = tool(
        "run", "--rm", *words, BOX, "sh", "-c", "umount -l /proc; ls /proc; umount -l /sys; ls /sys; ls /dev/null"
    ).stdout
    assert out.split() == ["/dev/null"]


def test_users_and_their_limits(tool: Tool) -> None:
    script = "id -u; id -G; echo hello > /dev/stderr; touch /tmp/mine; stat -c %u /tmp/mine"
    done = tool("run", "--rm", "--userns", MODE, "-u", "alice", BOX, "sh", "-c", script)
    assert (done.stdout.split(), done.stderr) == (["1000", "1000", "29", "1000"], "hello\n")
    tool.good("run", "-d", "--name", "box", "--userns", MODE, BOX, "sleep", "1000")
    done = tool("exec", "-u", "alice", "box", "sh", "-c", script)
    assert (done.stdout.split(), done.stderr) == (["1000", "1000", "29", "1000"], "hello\n")
    message = f"user {COUNT} is beyond the IDs of the container's user namespace"
    done = tool("run", "--rm", "--userns", MODE, "-u", str(COUNT), BOX, "id")
    assert (done.returncode, message in done.stderr, done.stderr.count("\n")) == (125, True, 1), done
    done = tool("exec", "-u", str(COUNT), "box", "id")
    assert (done.returncode, message in done.stderr) == (126, True), done


def test_commit_makes_the_same_layer(tool: Tool, scratch: Path) -> None:
    """diff_id is that of a container without for what is new; for what is gone, whose time is kept, all else is."""
    made = (
        "mkdir -p /new/deep; echo word > /new/file; ln /new/file /new/hard; ln -s file /new/soft; "
        "chown 12:34 /new/deep; chmod u+s /bin/busybox; mkfifo /new/pipe; chown -h 5:6 /new/soft; "
        "find /new /bin/busybox -exec touch -h -d @1700000000 {} +"
    )
    removed = "; rm /data/one; rm -r /data/deep; mkdir /data/deep; touch -d @1700000000 /data /data/deep"
    for script, version in ((made, "1"), (made + removed, "2")):
        for name, words in (("plain", ()), ("mapped", ("--userns", MODE))):
            tool.good("run", "--name", name, *words, BOX, "sh", "-c", script)
            tool.good("commit", name, f"{name}:{version}")
        assert tool.good("diff", "mapped") == tool.good("diff", "plain")
        tool.good("rm", "plain", "mapped")
    layers = [tool.inspect(f"{name}:1")["RootFS"]["Layers"] for name in ("plain", "mapped")]
    assert layers[0] == layers[1]
    assert top_layer(tool, "mapped:2", scratch) == top_layer(tool, "plain:2", scratch)
    names = ("/new/deep", "/new/soft", "/bin/busybox")
    shown = tool.good("run", "--rm", "--userns", MODE, "plain:1", "stat", "-c", "%u:%g %A", *names)
    assert shown.split("\n") == ["12:34 drwxr-xr-x", "5:6 lrwxrwxrwx", "0:0 -rwsr-xr-x"]


def top_layer(tool: Tool, image: str, scratch: Path) -> list[tuple[object, ...]]:
    """Every entry of an image's last layer, whiteouts without their times."""
    archive = scratch / "image.tar"
    tool.good("save", "-o", archive, image)
    with tarfile.open(archive) as outer:
        manifest = outer.extractfile("manifest.json")
        assert manifest is not None
        layer = outer.extractfile(json.load(manifest)[0]["Layers"][-1])
        assert layer is not None
        with tarfile.open(fileobj=layer) as tar:
            return [
                (
                    one.name,
                    one.type,
                    one.mode,
                    one.uid,
                    one.gid,
                    one.linkname,
                    one.size,
                    ".wh." in one.name or one.mtime,
                )
                for one in tar
            ]


def test_stopped_and_started_again(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", "--userns", MODE, BOX, "sh", "-c", "echo x >> /log; sleep 1000")
    tool.good("restart", "-t", "0", "box")
    assert tool.good("exec", "box", "cat", "/log") == "x\nx"
    assert tool.inspect("box")["HostConfig"]["UsernsMode"] == MODE


def test_volumes_have_the_container_s_ids_and_binds_the_host_s(tool: Tool, scratch: Path) -> None:
    for name, uid in (("ours", 0), ("theirs", FIRST)):
        (scratch / name).mkdir()
        os.chown(scratch / name, uid, uid)
    words = ("--userns", MODE, "-v", "store:/data", "-v", f"{scratch}/ours:/ours", "-v", f"{scratch}/theirs:/theirs")
    script = (
        "touch /data/new /theirs/new; touch /ours/new; "
        "stat -c %u:%g /data /data/one /data/new /ours /theirs /theirs/new"
    )
    done = tool("run", "--rm", *words, BOX, "sh", "-c", script)
    assert done.stdout.split() == ["0:0", "0:0", "0:0", "65534:65534", "0:0", "0:0"]
    assert "/ours/new: Permission denied" in done.stderr
    assert owner(tool.root / "volumes/store/_data/new") == (0, 0)
    assert owner(scratch / "theirs/new") == (FIRST, FIRST)
    assert tool.good("run", "--rm", "-v", "store:/data", BOX, "stat", "-c", "%u", "/data/new") == "0"
    # made for the container where it is missing, as docker makes it
    made = scratch / "made" / "below"
    assert tool.good("run", "--rm", "--userns", MODE, "-v", f"{made}:/m", BOX, "stat", "-c", "%u:%g", "/m") == "0:0"
    assert owner(made) == owner(made.parent) == (FIRST, FIRST)
    out = tool.good(
        "run", "--rm", "--userns", MODE, BOX, "sh", "-c", "echo 1.2.3.4 x >> /etc/hosts; stat -c %u /etc/hosts"
    )
    assert out == "0"


def test_cp_translates_owners(tool: Tool, scratch: Path) -> None:
    """In both directions, as files and as tars, on a running and a stopped container."""
    tool.good("run", "-d", "--name", "box", "--userns", MODE, BOX, "sleep", "1000")
    tool.good(
        "exec", "box", "sh", "-c", "mkdir /out; echo a > /out/file; chown 1000:29 /out/file; ln -s file /out/link"
    )
    (scratch / "in").mkdir()
    (scratch / "in" / "own").write_text("own\n")
    (scratch / "in" / "alice").write_text("alice\n")
    os.chown(scratch / "in" / "alice", 1000, 1000)
    stopped = tool.good(
        "create", "--name", "still", "--userns", MODE, BOX, "stat", "-c", "%u:%g %n", "/in/own", "/in/alice"
    )
    for name in ("box", stopped):
        tool.good("cp", scratch / "in", f"{name}:/in")
    expected = "0:0 /in/own\n1000:1000 /in/alice"
    assert tool.good("exec", "box", "stat", "-c", "%u:%g %n", "/in/own", "/in/alice") == expected
    assert tool.good("start", "-a", "still") == expected
    tool.good("cp", "-a", "box:/out", scratch / "copied")
    assert owner(scratch / "copied/file") == (1000, 29)
    stream = subprocess.run(
        command("cp", "box:/out", "-"), env=tool.environment, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        owners = {member.name: (member.uid, member.gid) for member in tar}
    assert owners == {"out": (0, 0), "out/file": (1000, 29), "out/link": (0, 0)}
    subprocess.run(command("cp", "-", "box:/tmp"), env=tool.environment, input=stream, check=True)
    assert tool.good("exec", "box", "stat", "-c", "%u:%g", "/tmp/out/file") == "1000:29"
    beyond = scratch / "beyond"
    beyond.write_text("")
    os.chown(beyond, COUNT, COUNT)
    done = tool("cp", beyond, "box:/tmp")
    assert (done.returncode, "is beyond the IDs of the container's user namespace" in done.stderr) == (1, True), done


def test_export_translates_owners(tool: Tool, scratch: Path) -> None:
    tool.good("run", "-d", "--name", "box", "--userns", MODE, BOX, "sleep", "1000")
    tool.good("exec", "box", "sh", "-c", "echo a > /file; chown 1000:29 /file")
    tool.good("export", "-o", scratch / "running.tar", "box")
    tool.good("stop", "-t", "0", "box")
    tool.good("export", "-o", scratch / "stopped.tar", "box")
    owners = []
    for name in ("running.tar", "stopped.tar"):
        with tarfile.open(scratch / name) as tar:
            owners.append({member.name: (member.uid, member.gid) for member in tar})
    assert owners[0]["file"] == (1000, 29)
    assert owners[0] == owners[1]


def test_on_a_network(tool: Tool) -> None:
    """Connected from the host's side, configured from inside, and joined by another of the same user namespace."""
    tool.good("run", "-d", "--name", "server", "--userns", MODE, "--network", "bridge", BOX, "sleep", "1000")
    found = tool.inspect("server")["NetworkSettings"]["Networks"]["bridge"]
    script = "ip -o -4 addr show eth0; ip route; cat /etc/hosts; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
    words = tool.good("exec", "server", "sh", "-c", script).split()
    assert f"{found['IPAddress']}/{found['IPPrefixLen']}" in words
    assert found["Gateway"] in words
    assert words[-1] == "0"
    shared = ("--userns", MODE, "--network", "container:server")
    assert found["IPAddress"] in tool.good("run", "--rm", *shared, BOX, "ip", "-o", "-4", "addr")
    for asked in (("--network", "container:server"), ("--userns", MODE, "--network", "container:plain")):
        tool("run", "-d", "--name", "plain", "--network", "bridge", BOX, "sleep", "1000")
        done = tool("run", "--rm", *asked, BOX, "true")
        assert (done.returncode, "it has another user namespace" in done.stderr) == (125, True), done


def test_on_a_terminal(tool: Tool) -> None:
    terminal = Terminal(tool, "run", "-it", "--rm", "--userns", MODE, BOX, "sh")
    try:
        terminal.expect(b"# ")
        terminal.type(b"stat -c %u:%g $(tty) /dev/console /dev/pts/ptmx; cut -d' ' -f7 /proc/$$/stat; exit 4\n")
        terminal.expect(b"exit 4\r\n")
        # the group of terminals, and of the multiplexer, as in any container
        terminal.expect(b"0:5\r\n0:5\r\n0:0\r\n34816\r\n")
        assert terminal.wait() == 4
    finally:
        terminal.close()


def test_namespaces_are_shared_by_those_of_one_user_namespace_alone(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", "--userns", MODE, "--ipc", "shareable", BOX, "sleep", "1000")
    tool.good("run", "-d", "--name", "plain", "--ipc", "shareable", BOX, "sleep", "1000")
    script = (
        "[ /proc/self/ns/user -ef /proc/1/ns/user ] && cat /proc/1/cmdline; touch /dev/shm/x; stat -c %u /dev/shm/x"
    )
    words = ("--pid", "container:box", "--ipc", "container:box", "--userns", MODE)
    assert tool.good("run", "--rm", *words, BOX, "sh", "-c", script) == "sleep\x001000\x000"
    for donor, own in (("box", ()), ("plain", ("--userns", MODE)), ("box", ("--userns", "host"))):
        for option in ("--pid", "--ipc"):
            done = tool("run", "--rm", option, f"container:{donor}", *own, BOX, "true")
            assert (done.returncode, "it has another user namespace" in done.stderr) == (125, True), done


REFUSED = (
    (("--userns", MODE, "--privileged"), "privileged mode is incompatible with user namespaces."),
    (("--userns", MODE, "--pid", "host"), "cannot share the host PID namespace when user namespaces are enabled"),
    (
        ("--userns", MODE, "--network", "host"),
        "cannot share the host's network namespace when user namespaces are enabled",
    ),
    (("--userns", "remap:nobody-has-this-name"), "/etc/subuid has no range of IDs for nobody-has-this-name"),
    (("--userns", "remap:"), "--userns: invalid USER mode"),
    (("--userns", "auto"), "--userns: invalid USER mode"),
)


def test_refusals(tool: Tool) -> None:
    for words, message in REFUSED:
        done = tool("run", "--rm", *words, BOX, "true")
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (125, "", 1), (words, done)
        assert message in done.stderr, words
    assert tool.good("ps", "-aq") == ""


def test_the_host_s_own_ids_are_docker_s_host_mode(tool: Tool) -> None:
    shown = tool.good("run", "--rm", "--userns", "host", BOX, "cat", "/proc/self/uid_map")
    assert shown == Path("/proc/self/uid_map").read_text().rstrip("\n")


def test_where_files_cannot_be_shown_with_other_ids(busybox_archive: Path, scratch: Path) -> None:
    """A data root on a file system without idmapped mounts: one clear line, and nothing left."""
    lower, work, root = scratch / "lower", scratch / "work", scratch / "over"
    for each in (lower, work, scratch / "up", root):
        each.mkdir()
    # tmpfs has none before Linux 6.3; overlayfs has none for longer, and cannot carry another overlay's upper directory
    # either, but that comes later. Linux 7.3 shows overlays with other IDs, too.
    words = ["-t", "overlay", "-o", f"lowerdir={lower},upperdir={scratch}/up,workdir={work}"]
    if kernel_version() < (6, 3):
        words = ["-t", "tmpfs"]
    subprocess.run(["mount", *words, "none", root], check=True)
    try:
        tool = Tool(root / "data", busybox_archive)
        done = tool("run", "--rm", "--userns", MODE, BOX, "true")
        assert (done.returncode, done.stderr.count("\n")) == (125, 1), done
        told = "has no idmapped mounts", "lies on overlay, which cannot hold what a container writes"
        assert told[0] in done.stderr or kernel_version() > (6, 12) and told[1] in done.stderr
        tool.close()
    finally:
        subprocess.run(["umount", root], check=True)


@pytest.mark.parametrize(
    "words", [("--userns", MODE), ("--userns", MODE, "--user", "alice", "-w", "/work"), ("--pid", "container:donor")]
)
def test_nothing_is_taken_from_the_container_on_the_way(tool: Tool, scratch: Path, words: tuple[str, ...]) -> None:
    """Between pivot_root and execve the process names nothing but what the plan names (hazard D3)."""
    tool.good("run", "-d", "--name", "donor", BOX, "sleep", "1000")
    log = scratch / "strace"
    done = subprocess.run(
        ["strace", "-f", "-o", log, *command("run", "--rm", "--network", "none", *words, BOX, "true")],
        env=tool.environment,
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 0, done
    lines = log.read_text().splitlines()
    names = names_between(lines, "pivot_root(", "execveat(")
    assert len(names) > 10
    assert set(names) - PLANNED <= {"/etc/hostname", "/etc/resolv.conf", "."}, sorted(set(names) - PLANNED)
