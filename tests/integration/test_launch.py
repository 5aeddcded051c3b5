"""Launching: what the process finds, how it ends, what stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from tests.integration.launching import Bundle
from tests.patience import patience


@pytest.fixture
def bundle(scratch: Path, busybox_layer: bytes) -> Bundle:
    return Bundle(scratch / "overlay2", busybox_layer).fill_init()


def _cgroups_of(bundle: Bundle) -> list[Path]:
    # Only where they would be: others' groups come and go below.
    hierarchies = Path("/sys/fs/cgroup")
    return [
        *hierarchies.glob(f"minidock/{bundle.container_id}"),
        *hierarchies.glob(f"*/minidock/{bundle.container_id}"),
    ]


def test_a_run_leaves_nothing_on_the_host(bundle: Bundle) -> None:
    before = builders.tree_listing(bundle.overlay)
    assert bundle.shell("echo hello") == "hello\n"
    assert str(bundle.overlay) not in Path("/proc/self/mountinfo").read_text()
    assert [entry for entry in builders.tree_listing(bundle.overlay) if b"/work/" not in entry[0]] == before
    assert not (bundle.overlay / "rw" / "merged").exists()
    assert _cgroups_of(bundle) == []


def test_writes_land_in_the_upper_directory(bundle: Bundle) -> None:
    bundle.shell("echo new > /home/file; rm /etc/group; mkdir /fresh")
    assert (bundle.upper / "home/file").read_text() == "new\n"
    assert os.lstat(bundle.upper / "etc/group").st_rdev == 0
    assert (bundle.upper / "fresh").is_dir()
    assert bundle.shell("cat /home/file; ls /etc/group 2>/dev/null || echo gone") == "new\ngone\n"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["true"], 0, ""),
        (["sh", "-c", "exit 7"], 7, ""),
        (["sh", "-c", "exit 255"], 255, ""),
        (["sh", "-c", "kill -9 $$"], 0, ""),  # PID 1 cannot kill itself
        (["nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
        ([""], 127, 'exec: "": executable file not found in $PATH'),
        (["/nosuch"], 127, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        (["./nosuch"], 127, 'exec: "./nosuch": stat ./nosuch: no such file or directory'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
        (["/etc"], 126, 'exec: "/etc": permission denied'),
        (["/bin/foreign"], 255, "exec /bin/foreign: exec format error"),
        (["/bin/empty"], 255, "exec /bin/empty: exec format error"),
        (["/bin/orphan"], 255, "exec /bin/orphan: no such file or directory"),
    ],
)
def test_exit_codes(bundle: Bundle, argv: list[str], code: int, words: str) -> None:
    programs = {"foreign": b"\x7fELF\x02\x01\x01" + bytes(11) + b"\xb7\0", "empty": b"", "orphan": b"#!/nosuch\n"}
    for name, data in programs.items():
        path = bundle.upper / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755)
    done = bundle.run(*argv)
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert _cgroups_of(bundle) == []


def test_no_program_runs_before_its_parent_is_ready(bundle: Bundle) -> None:
    done = bundle.run("sh", "-c", "echo ran > /home/ran", is_never_ready=True)
    assert (done.returncode, done.stderr) == (125, "UsageError: not ready\n")
    assert not (bundle.upper / "home").exists()
    assert _cgroups_of(bundle) == []


def test_environment(bundle: Bundle) -> None:
    plain = sorted(bundle.shell("env -u SHLVL -u PWD env 2>/dev/null || env").splitlines())
    assert f"HOSTNAME={bundle.container_id[:12]}" in plain
    assert "HOME=/root" in plain
    assert not any(line.startswith("TERM=") for line in plain)
    chosen = bundle.shell("env", env=["PATH=/bin", "A=1", "A=2", "HOME=/x", "HOSTNAME"], hostname="box").splitlines()
    assert {"PATH=/bin", "A=2", "HOME=/x"} <= set(chosen)
    assert not any(line.startswith("HOSTNAME=") for line in chosen)
    assert bundle.shell("hostname", hostname="box") == "box\n"
    bare = bundle.run("/bin/env", env=[]).stdout.splitlines()
    assert "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in bare
    assert "TERM=xterm" in bundle.run("env", tty=True).stdout.replace("\r", "").splitlines()


def test_working_directory_is_made_as_the_engine_does(bundle: Bundle) -> None:
    assert bundle.shell("pwd; stat -c '%u:%g %a' .", cwd="/new/deep", user="alice") == "/new/deep\n0:0 755\n"
    assert (bundle.upper / "new/deep").is_dir()
    done = bundle.run("true", cwd="/etc/passwd")
    assert (done.returncode, "Cannot mkdir: /etc/passwd is not a directory" in done.stderr) == (125, True)
    assert bundle.run("true", cwd="/etc/passwd/below").returncode == 125
    # one that only root may enter is entered before the user changes, as runc does
    assert bundle.shell("pwd", cwd="/root", user="alice") == "/root\n"


def test_terminal(bundle: Bundle) -> None:
    text = bundle.run("sh", "-c", "tty; ls -l /dev/console; ls /dev/pts; stty size", tty=True).stdout
    lines = text.replace("\r", "").splitlines()
    assert lines[0] == "/dev/pts/0"
    assert lines[1].startswith("crw--w----    1 root     5         136,   0")
    assert lines[2].split() == ["0", "ptmx"] or lines[2:4] == ["0", "ptmx"]
    owned = bundle.run("sh", "-c", "stat -c %u /dev/pts/0; echo out > /dev/stdout", tty=True, user="alice").stdout
    assert owned.replace("\r", "") == "1000\nout\n"


def test_user_can_open_its_own_pipes_again(bundle: Bundle) -> None:
    assert bundle.shell("echo one > /dev/stdout; cat < /dev/stdin", user="alice", input="two\n") == "one\ntwo\n"


def test_standard_descriptors_only(bundle: Bundle) -> None:
    extra = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(50)]
    for handle in extra:
        os.set_inheritable(handle, True)
    for options in ({}, {"tty": True}, {"init": True}, {"exec": [{"argv": ["sh", "-c", "echo /proc/self/fd/*"]}]}):
        argv = ["sleep", "9"] if "exec" in options else ["sh", "-c", "echo /proc/self/fd/*"]
        done = subprocess.run(
            bundle.words(*argv, **options), capture_output=True, text=True, close_fds=False, stdin=subprocess.DEVNULL
        )
        # the shell itself opens the directory for its glob
        assert done.stdout.split()[:3] == ["/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"], done
        assert len(done.stdout.split()) <= 4, done.stdout
    for handle in extra:
        os.close(handle)


def test_mounts_asked_for(bundle: Bundle, scratch: Path) -> None:
    host = scratch / "host"
    (host / "sub").mkdir(parents=True)
    (host / "file").write_text("content\n")
    binds = [
        {"source": str(host), "target": "/a/b/../c"},
        {"source": str(host), "target": "/ro", "read_only": True},
        {"source": str(host / "file"), "target": "/made/for/it"},
        {"source": str(host / "file"), "target": "/etc/hosts"},
    ]
    etc = {"/etc/hosts": str(host / "sub"), "/etc/hostname": str(host / "file")}
    script = (
        "cat /a/c/file /made/for/it /etc/hosts /etc/hostname; echo x > /a/c/new; echo y 2>/dev/null > /ro/no || "
        "echo refused; grep -E ' /(t|u) ' /proc/mounts; stat -c %a /t /home/alice"
    )
    text = bundle.shell(
        script, binds=binds, etc_files=etc, tmpfs=[["/t", "size=1m,mode=700,exec"], ["/home/alice", ""]]
    )
    # a tmpfs tells of its inode numbers where the kernel could do otherwise
    assert text.replace(",inode64", "") == (
        "content\n" * 4 + "refused\ntmpfs /t tmpfs rw,nosuid,nodev,relatime,size=1024k,mode=700 0 0\n700\n755\n"
    )
    assert (host / "new").read_text() == "x\n"
    assert not (host / "no").exists()


def test_mounts_refused(bundle: Bundle, scratch: Path) -> None:
    (scratch / "d").mkdir()
    (scratch / "f").write_text("")
    for source, target, words in (
        ("d", "/etc/passwd", "Are you trying to mount a directory onto a file"),
        ("f", "/tmp", "Are you trying to mount a directory onto a file"),
        ("d", "/", "destination can't be '/'"),
        ("d", "/proc", "it is inside /proc"),
        ("d", "/proc/fs", "it is inside /proc"),
        ("nosuch", "/x", "No such file or directory"),
    ):
        done = bundle.run("true", binds=[{"source": str(scratch / source), "target": target}])
        assert (done.returncode, words in done.stderr) == (125, True), (target, done.stderr)
    assert _cgroups_of(bundle) == []


def test_read_only_root(bundle: Bundle) -> None:
    script = "touch /x 2>&1; touch /dev/shm/ok /dev/ok && grep ' / ' /proc/mounts | cut -d' ' -f4 | cut -d, -f1"
    assert bundle.shell(script, read_only=True) == "touch: /x: Read-only file system\nro\n"


def test_network_of_the_host_and_none(bundle: Bundle) -> None:
    none = bundle.shell("ls /proc/self/ns >/dev/null; readlink /proc/self/ns/net; cat /sys/class/net/lo/operstate")
    assert none.splitlines()[0] != os.readlink("/proc/self/ns/net")
    assert "lo" in bundle.shell("cat /proc/net/dev")
    assert bundle.run("ip", "link", "show", "lo").stdout.split(">")[0].endswith("<LOOPBACK,UP,LOWER_UP")
    assert bundle.shell("readlink /proc/self/ns/net", network="host").strip() == os.readlink("/proc/self/ns/net")


def test_every_namespace_but_user_and_time_is_new(bundle: Bundle) -> None:
    for name in ("mnt", "pid", "uts", "ipc", "net", "cgroup"):
        assert bundle.shell(f"readlink /proc/self/ns/{name}").strip() != os.readlink(f"/proc/self/ns/{name}"), name


def test_init_reaps_orphans_passes_signals_and_hides_the_command_line(bundle: Bundle) -> None:
    script = (
        "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0 &); done; sleep 0.3; ls -d /proc/[0-9]* | wc -l; "
        "cat /proc/1/cmdline; echo; ls -l /proc/1/exe 2>&1 | grep -c denied; ls /proc/1/fd | wc -l; exit 5"
    )
    done = bundle.run("sh", "-c", script, init=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 5
    assert int(lines[0]) < 8, "orphans were not reaped"
    assert lines[1].startswith("/sbin/docker-init -- sh -c")
    assert lines[-2:] == ["1", "3"]
    process = subprocess.Popen(
        bundle.words(
            "sh", "-c", "trap 'echo got; exit 9' TERM; echo $$; while :; do sleep 0.05; done", init=True, print_pid=True
        ),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        # the shell's own pid and ours, in either order
        pids = {int(process.stdout.readline()), int(process.stdout.readline())}
        assert 2 in pids
        os.kill(max(pids), signal.SIGTERM)
        assert process.communicate(timeout=patience(20))[0] == "got\n"
        assert process.returncode == 9
    finally:
        process.kill()


def test_init_turns_a_signal_into_128_and_more(bundle: Bundle) -> None:
    assert bundle.run("sh", "-c", "kill -TERM $$", init=True).returncode == 143
    assert bundle.run("nosuch", init=True).returncode == 127


def test_signals_of_the_caller_do_not_leak_in(bundle: Bundle) -> None:
    done = subprocess.run(
        bundle.words("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"),
        capture_output=True,
        text=True,
        preexec_fn=lambda: (
            signal.signal(signal.SIGUSR1, signal.SIG_IGN),
            signal.pthread_sigmask(signal.SIG_BLOCK, {15}),
        ),
    )
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["0" * 16, "0" * 16]


@pytest.mark.parametrize("options", [{}, {"user": "alice"}, {"init": True, "user": "alice"}, {"tty": True}])
def test_the_container_dies_with_its_launcher(bundle: Bundle, options: dict[str, Any]) -> None:
    process = subprocess.Popen(
        bundle.words("sleep", "1000", print_pid=True, **options), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    pidfd = os.pidfd_open(pid)
    process.kill()
    process.wait()
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(10_000), "the container's process outlived its launcher"
    os.close(pidfd)
    from minidock.runtime.cgroup import Cgroup

    Cgroup.open(bundle.container_id).remove()
    assert _cgroups_of(bundle) == []


def test_many_layers_fit_into_the_page_of_options(scratch: Path, busybox_layer: bytes) -> None:
    from minidock.ids import LinkID

    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    for number in range(124):
        name, link = f"{number:064x}", LinkID.random()
        (bundle.overlay / name / "diff").mkdir(parents=True)
        (bundle.overlay / name / "diff" / f"layer-{number}").write_text("")
        (bundle.overlay / "l" / link).symlink_to(f"../{name}/diff")
        bundle.lowers.insert(1, f"l/{link}")
    assert len(bundle.lowers) == 126
    assert bundle.shell("ls / | grep -c layer-") == "124\n"


def test_the_explained_plan_is_what_ran(bundle: Bundle) -> None:
    """Each mount that --explain prints is in the container's table, and no other."""
    done = bundle.run("cat", "/proc/self/mountinfo", trace=True)
    ran = {line.split()[4] for line in done.stdout.splitlines()}
    told = {
        line.split()[-1] for line in done.stderr.splitlines() if line.startswith(("mount: mount -t ", "mount: mkdir "))
    }
    told = {target for target in told if not target.endswith("/merged")}
    assert "/proc" in told and "/dev/shm" in told
    assert told <= ran
    shown = {line for line in ran if not line.startswith(("/proc/", "/sys/firmware"))}
    assert shown - told == {"/"}
    clones = [line for line in done.stderr.splitlines() if line.startswith("clone: ")]
    assert clones[0].startswith("clone: unshare --fork --mount --pid --uts --ipc --net")
