"""Hazards D1-D4 and B8-B10: what a process in a container gets hold of, and who it is."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.builders import directory, layer_tar, symlink, tar_member
from tests.conftest import missing, whole
from tests.integration.launching import PYTHON, Bundle


@pytest.fixture
def bundle(scratch: Path, busybox_layer: bytes) -> Bundle:
    return Bundle(scratch / "overlay2", busybox_layer).fill_init()


def _interpreter_digest() -> str:
    return hashlib.sha256(Path(os.path.realpath(PYTHON)).read_bytes()).hexdigest()


def test_d1_the_host_interpreter_is_out_of_reach(bundle: Bundle) -> None:
    """Programs, `#!` lines and ELF interpreters that name /proc/self/exe get a sealed helper, never python."""
    before = _interpreter_digest()
    (bundle.upper / "bin").mkdir(exist_ok=True)
    script = bundle.upper / "bin" / "trap"
    script.write_text("#!/proc/self/exe\nprint('the host python')\n")
    script.chmod(0o755)
    (bundle.upper / "bin" / "python").symlink_to("/proc/self/exe")
    for argv in (["/proc/self/exe"], ["/bin/trap"], ["/bin/python", "-c", "print('the host python')"]):
        for options in ({}, {"exec": [{"argv": argv, "env": ["PATH=/bin"]}]}):
            done = bundle.run(*(["sleep", "9"] if options else argv), **options)
            assert "the host python" not in done.stdout
            assert "error while loading" not in done.stderr, "python itself was started"
    assert _interpreter_digest() == before


def test_d1_a_joining_process_cannot_be_opened(bundle: Bundle) -> None:
    """A loop in the container tries to open every /proc/PID/exe while processes join."""
    before = _interpreter_digest()
    loop = (
        "while :; do for p in /proc/[0-9]*; do case $(readlink $p/exe 2>/dev/null) in "
        "*python*) echo $p >> /caught;; esac; (: 5<>$p/exe) 2>/dev/null; done; done"
    )
    joins = [{"argv": ["true"], "env": ["PATH=/bin"]} for _ in range(whole(1000, 60))]
    done = bundle.run("sh", "-c", loop, exec=joins, timeout_s=whole(900, 60))
    assert done.returncode == 0, done.stderr
    assert not (bundle.upper / "caught").exists(), "the container saw the interpreter"
    assert _interpreter_digest() == before


@pytest.mark.parametrize("options", [{}, {"tty": True}, {"init": True}])
def test_d2_no_descriptor_leaks(bundle: Bundle, options: dict[str, Any]) -> None:
    extra = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(50)]
    for handle in extra:
        os.set_inheritable(handle, True)
    script = "ls /proc/self/fd | wc -l; ls /proc/1/fd | wc -l"
    for words in (
        bundle.words("sh", "-c", script, **options),
        bundle.words("sleep", "9", **options, exec=[{"argv": ["sh", "-c", script], "env": ["PATH=/bin"]}]),
    ):
        done = subprocess.run(words, capture_output=True, text=True, close_fds=False, stdin=subprocess.DEVNULL)
        # 0, 1, 2 and, for ls, the directory it reads; PID 1, while it is the shell, may hold the pipe to `wc`
        inside, first = map(int, done.stdout.split())
        assert inside == 4, done
        assert first <= 5, done
    for handle in extra:
        os.close(handle)


def test_d2_no_directory_of_the_host_as_working_directory(bundle: Bundle) -> None:
    for number in range(3, 20):
        done = bundle.run("pwd", cwd=f"/proc/self/fd/{number}")
        assert done.returncode in (125, 126), done
        assert done.stdout == ""


def _strace(bundle: Bundle, scratch: Path, *argv: str, **options: Any) -> list[str]:
    if not Path("/usr/bin/strace").exists():
        missing("strace is not installed")
    log = scratch / "strace"
    done = subprocess.run(
        ["strace", "-f", "-o", str(log), *bundle.words(*argv, **options)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines()


_BY_NAME = re.compile(r"\b(open|openat|openat2|execve|stat|newfstatat|access|readlink)\(([^)]*)")


def names_between(lines: list[str], first: str, last: str) -> list[str]:
    """The paths that one process names in open-like calls between two calls, descriptors left out."""
    begin = next(number for number, line in enumerate(lines) if first in line)
    process = lines[begin].split()[0]
    names = []
    for line in lines[begin:]:
        if line.split()[0] != process:
            continue
        found = _BY_NAME.search(line)
        if found and (path := re.search(r'"([^"]*)"', found.group(2))):
            names.append(path.group(1))
        if last in line:
            return names
    raise AssertionError(f"no {last} after {first}")


PLANNED = {
    "",
    "/",
    "/proc",
    "/dev",
    "dev",
    "/sys",
    "etc/passwd",
    "etc/group",
    "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    "/proc/sys/net/ipv4/ping_group_range",
    "/dev/null",
    "dev/pts/ptmx",
    "/dev/console",
    "console",
    "/etc/hosts",
    "/work",
    "/bin/true",
}


POISON = [
    *(directory(name) for name in (b"usr", b"usr/lib", b"usr/lib/python3.11", b"usr/lib/python3.11/encodings", b"lib")),
    tar_member(b"usr/lib/python3.11/encodings/__init__.py", b"import os; os.write(2, b'POISON')\n"),
    tar_member(b"usr/lib/python3.11/traceback.py", b"import os; os.write(2, b'POISON')\n"),
    tar_member(b"lib/libnss_files.so.2", b"POISON"),
    tar_member(b"etc/ld.so.preload", b"/lib/libnss_files.so.2\n"),
    tar_member(b"etc/nsswitch.conf", b"passwd: files\n"),
]


@pytest.mark.parametrize("options", [{}, {"tty": True, "user": "alice"}, {"init": True, "cwd": "/work"}])
def test_d3_nothing_is_taken_from_the_container(options: dict[str, Any], scratch: Path, busybox_layer: bytes) -> None:
    bundle = Bundle(scratch / "overlay2", busybox_layer, layer_tar(*POISON)).fill_init()
    (scratch / "hosts").write_text("")
    lines = _strace(bundle, scratch, "true", etc_files={"/etc/hosts": str(scratch / "hosts")}, **options)
    last = "execveat(" if "init" not in options else "clone("
    names = names_between(lines, "pivot_root(", last)
    assert set(names) <= PLANNED, sorted(set(names) - PLANNED)
    assert not any("POISON" in line for line in lines)
    mapped = [line for line in lines if "pivot_root(" in line]
    process = mapped[0].split()[0]
    after = lines[lines.index(mapped[0]) :]
    for line in after:
        if line.startswith(process) and "execve" in line:
            break
        assert not (line.startswith(process) and "PROT_EXEC" in line), line


def test_d3_nor_when_a_process_joins(scratch: Path, busybox_layer: bytes) -> None:
    bundle = Bundle(scratch / "overlay2", busybox_layer, layer_tar(*POISON)).fill_init()
    for argv, code in ((["true"], 0), (["nosuch"], 127)):
        words = {"argv": argv, "env": ["PATH=/bin"], "user": "alice", "tty": argv == ["true"]}
        log = scratch / "strace"
        done = subprocess.run(
            ["strace", "-f", "-o", str(log), *bundle.words("sleep", "9", exec=[words])],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done
        assert "POISON" not in done.stderr + log.read_text()
        lines = log.read_text().splitlines()
        begin = next(n for n, line in enumerate(lines) if "setns(" in line and "CLONE_NEWNS" in line)
        process = lines[begin].split()[0]
        names = []
        for line in lines[begin:]:
            if line.startswith(process + " "):
                if "execveat(" in line or "exit_group(" in line:
                    break
                found = _BY_NAME.search(line)
                if found and (path := re.search(r'"([^"]*)"', found.group(2))):
                    names.append(path.group(1))
        assert set(names) <= PLANNED | {"/bin/nosuch"}, names


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ({}, "00000000a80425fb"),
        ({"cap_drop": ["ALL"]}, "0" * 16),
        ({"cap_add": ["NET_ADMIN"], "cap_drop": ["CHOWN"]}, "00000000a80435fa"),
        ({"cap_drop": ["ALL"], "cap_add": ["CAP_SYS_TIME", "chown"]}, "0000000002000001"),
    ],
)
def test_d4_all_five_capability_sets(bundle: Bundle, options: dict[str, Any], mask: str) -> None:
    text = bundle.shell("grep Cap /proc/self/status", **options)
    sets = dict(line.split(":\t") for line in text.splitlines())
    empty = "0" * 16
    assert sets == {"CapInh": empty, "CapPrm": mask, "CapEff": mask, "CapBnd": mask, "CapAmb": empty}
    text = bundle.shell("grep Cap /proc/self/status", user="1000", **options)
    sets = dict(line.split(":\t") for line in text.splitlines())
    assert sets == {"CapInh": empty, "CapPrm": empty, "CapEff": empty, "CapBnd": mask, "CapAmb": empty}
    joined = {"argv": ["grep", "Cap", "/proc/self/status"], "env": ["PATH=/bin"], **options}
    text = bundle.run("sleep", "9", exec=[joined]).stdout
    sets = dict(line.split(":\t") for line in text.splitlines())
    assert sets == {"CapInh": empty, "CapPrm": mask, "CapEff": mask, "CapBnd": mask, "CapAmb": empty}


def test_d4_all_and_privileged_give_what_this_host_has(bundle: Bundle) -> None:
    ours = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapPrm"))
    for options in ({"privileged": True}, {"cap_add": ["all"]}):
        assert ours in bundle.shell("grep Cap /proc/self/status", **options)
    assert "unknown capability" in bundle.run("true", cap_add=["BOGUS"]).stderr
    assert bundle.run("true", cap_add=["BOGUS"]).returncode == 125


def test_d4_no_new_privileges_only_when_asked(bundle: Bundle) -> None:
    assert "NoNewPrivs:\t0" in bundle.shell("cat /proc/self/status")
    assert "NoNewPrivs:\t1" in bundle.shell("cat /proc/self/status", no_new_privileges=True)


def test_d6_the_caller_keeps_its_terminal(bundle: Bundle) -> None:
    """Without -t the process is in a session of its own, without a controlling terminal."""
    session, terminal = bundle.shell("cut -d' ' -f6,7 /proc/self/stat").split()
    assert (session, terminal) == ("1", "0")


def test_a_new_session_keyring(bundle: Bundle) -> None:
    mine = subprocess.run(["cat", "/proc/keys"], capture_output=True, text=True).stdout
    inside = bundle.shell("cat /proc/keys", privileged=True)
    assert "_ses." + bundle.container_id in inside
    assert "_ses." + bundle.container_id not in mine


@pytest.mark.parametrize(
    "cwd",
    ["/link", "/link/deeper", "/up/../../../../../../etc-of-host", "/proc/self/fd/3", "/proc/1/cwd/x", "/loop"],
)
def test_b8_working_directory(cwd: str, scratch: Path, busybox_layer: bytes) -> None:
    canary = scratch / "canary"
    canary.mkdir()
    second = layer_tar(
        symlink(b"link", os.fsencode(canary)),
        symlink(b"loop", b"loop"),
        symlink(b"up", b"../../../../.." + os.fsencode(scratch)),
    )
    bundle = Bundle(scratch / "overlay2", busybox_layer, second).fill_init()
    done = bundle.run("pwd", cwd=cwd)
    assert list(canary.iterdir()) == []
    assert not Path("/etc-of-host").exists() and not (scratch / "x").exists()
    if done.returncode == 0:
        assert done.stdout.startswith("/") and "unreachable" not in done.stdout
    else:
        assert done.returncode in (125, 126) and "Traceback" not in done.stderr


PASSWD = {
    "passwd-symlink-zero": [
        directory(b"dev"),
        symlink(b"etc/passwd", b"/dev/zero"),
        tar_member(b"dev/zero", type=b"3", devmajor=1, devminor=5),
    ],
    "passwd-fifo": [tar_member(b"etc/passwd", type=b"6")],
    "passwd-dir": [directory(b"etc/passwd")],
    "passwd-huge": [tar_member(b"etc/passwd", b"x" * ((1 << 20) + 1))],
    "passwd-uid-big": [tar_member(b"etc/passwd", b"alice:x:4294967296:0::/:/bin/sh\n")],
    "passwd-uid-negative": [tar_member(b"etc/passwd", b"alice:x:-1:0::/:/bin/sh\n")],
    "group-fifo": [tar_member(b"etc/group", type=b"6")],
    "group-gid-big": [tar_member(b"etc/group", b"g:x:2147483648:alice\n")],
}


@pytest.mark.parametrize("name", sorted(PASSWD))
def test_b9_hostile_passwd_and_group_files(name: str, scratch: Path, busybox_layer: bytes) -> None:
    members = PASSWD[name]
    bundle = Bundle(scratch / "overlay2", busybox_layer)
    target = bundle.upper / "etc"
    target.mkdir()
    extracted = Bundle(scratch / "other", layer_tar(*members))
    bundle.lowers.insert(1, "l/L9")
    (bundle.overlay / "l/L9").symlink_to(scratch / "other/layer0/diff")
    bundle.image_lowers.insert(0, "l/L9")
    bundle.fill_init()
    assert extracted.overlay.exists()
    done = bundle.run("id", user="alice")
    assert (done.returncode, done.stdout) == (125, ""), done
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "user",
    [
        "2147483648",
        "4294967296",
        "-1",
        "nosuch",
        "0:4294967296",
        "alice\n",
        "\n",
        "1000:-1",
        "0x0",
        " 0",
        "9" * 40,
        "root:nosuch",
        "alice:audio:x",
    ],
)
def test_b9_bad_users_never_become_root(bundle: Bundle, user: str) -> None:
    done = bundle.run("id", user=user)
    assert (done.returncode, done.stdout) == (125, ""), done
    joined = bundle.run("sleep", "9", exec=[{"argv": ["id"], "env": ["PATH=/bin"], "user": user}])
    assert (joined.returncode, joined.stdout) == (126, ""), joined


def test_b10_leftover_groups_of_the_caller(bundle: Bundle) -> None:
    words = bundle.words("grep", "Groups", "/proc/self/status", user="alice:audio")
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=lambda: os.setgroups([4, 5, 6]))
    assert done.stdout.split() == ["Groups:", "29"]
