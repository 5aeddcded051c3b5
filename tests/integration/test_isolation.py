"""The seccomp filter on real processes, and the options about isolation."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.builders import ImageSpec, busybox_layer, docker_archive, layer_tar, symlink
from tests.integration.launching import Bundle
from tests.integration.tool import Tool

BOX = "busybox:test"
STATUS = ("grep", "-E", "^(Seccomp|NoNewPrivs|CapEff):", "/proc/self/status")


def facts(text: str) -> dict[str, str]:
    return dict(line.split(":\t") for line in text.splitlines())


def test_run_and_exec_are_filtered(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "100")
    for words in (
        ("run", "--rm", BOX),
        ("exec", "box"),
        ("exec", "-u", "1000", "box"),
        ("exec", "--privileged", "box"),
    ):
        assert facts(tool.good(*words, *STATUS))["Seccomp"] == "2", words
    assert facts(tool.good("run", "--rm", "--init", BOX, "grep", "Seccomp:", "/proc/1/status"))["Seccomp"] == "2"
    assert "Operation not permitted" in tool("exec", "box", "busybox", "unshare", "-U", "true").stderr


def test_unconfined_and_privileged(tool: Tool) -> None:
    for words in (("--privileged",), ("--security-opt", "seccomp=unconfined")):
        assert facts(tool.good("run", "--rm", *words, BOX, *STATUS))["Seccomp"] == "0"
    powers = ("--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined")
    assert tool("run", "--rm", *powers, BOX, "mount", "-t", "tmpfs", "x", "/tmp").returncode == 0


def test_no_new_privileges(tool: Tool) -> None:
    found = facts(tool.good("run", "--rm", "--security-opt", "no-new-privileges", "-u", "1000", BOX, *STATUS))
    assert found == {"CapEff": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}


def test_a_profile_of_ones_own(tool: Tool, scratch: Path) -> None:
    profile = scratch / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    tool.good("run", "-d", "--name", "box", "--security-opt", f"seccomp={profile}", BOX, "sleep", "100")
    profile.unlink()
    done = tool("exec", "box", "mkdir", "/new")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert tool.inspect("box")["HostConfig"]["SecurityOpt"] == [
        'seccomp={"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],'
        '"action":"SCMP_ACT_ERRNO","errnoRet":28}]}'
    ]


def test_a_container_with_ptrace_sees_nothing_of_the_host_while_processes_join(
    scratch: Path, busybox_layer: bytes
) -> None:
    """Every process that appears inside has the container's own capabilities from its first moment on."""
    bundle = Bundle(scratch / "overlay2", busybox_layer).fill_init()
    # nothing but words of the shell's own, so that it looks again and again within a millisecond
    watch = (
        "while read -r key value; do case $key in CapPrm:) own=$value;; esac; done < /proc/1/status; "
        "echo $own > /own; while :; do for p in /proc/[2-9] /proc/[1-9][0-9]*; do "
        "while read -r key value; do case $key in CapPrm:) [ $value = $own ] || echo $value >> /caught; break;; esac; "
        "done < $p/status; done; done 2>/dev/null"
    )
    joining = [{"argv": ["true"], "env": ["PATH=/bin"], "cap_add": ["SYS_PTRACE"]}] * 60
    done = bundle.run("sh", "-c", watch, cap_add=["SYS_PTRACE"], exec=joining)
    assert done.returncode == 0, done.stderr
    assert (bundle.upper / "own").read_text() == "00000000a80c25fb\n"
    assert not (bundle.upper / "caught").exists(), (bundle.upper / "caught").read_text()


def test_a_process_that_joined_leads_its_session(tool: Tool) -> None:
    tool.good("run", "-d", "--name", "box", BOX, "sleep", "100")
    fields = tool.good("exec", "box", "sh", "-c", "cat /proc/$$/stat").rpartition(")")[2].split()
    pid = tool.good("exec", "box", "sh", "-c", "echo $$; cut -d' ' -f4-6 /proc/$$/stat").split()
    assert pid[0] == pid[2] == pid[3]
    assert fields[1] == "0"


def test_resource_limits(tool: Tool) -> None:
    words = ("--ulimit", "nofile=100:200", "--ulimit", "core=0")
    script = "ulimit -n; ulimit -Hn; ulimit -c"
    tool.good("run", "-d", "--name", "box", *words, BOX, "sleep", "100")
    for command in (("run", "--rm", *words, BOX), ("exec", "box")):
        assert tool.good(*command, "sh", "-c", script).split() == ["100", "200", "0"]
    assert tool.inspect("box")["HostConfig"]["Ulimits"] == [
        {"Name": "core", "Hard": 0, "Soft": 0},
        {"Name": "nofile", "Hard": 200, "Soft": 100},
    ]


def test_a_device_may_be_anywhere_in_the_root(tool: Tool, scratch: Path) -> None:
    """Made in the container's own layer, never through a link to the host; what is there stays, as with docker."""
    link = layer_tar(symlink(b"out", str(scratch).encode()), symlink(b"up", b"../../../.."))
    archive = docker_archive(scratch / "link.tar", ImageSpec([busybox_layer(), link], tags=["link:1"]))
    tool.good("load", "-i", archive)
    script = "stat -c '%F %t:%T %a' /a/b /a/b/zero /out/zero /up/zero; : >/a/b/zero"
    places = [
        word for path in ("a/b", "out", "up", "bin/busybox") for word in ("--device", f"/dev/zero:/{path}/zero:r")
    ]
    done = tool("run", "--rm", "--read-only", *places[:-2], "link:1", "sh", "-c", script)
    zero = "character special file 1:5 666"
    # The directory that the link leads to inside is not there.
    assert (done.returncode, done.stderr) == (125, "minidock: mknod /out/zero: No such file or directory\n")
    done = tool("run", "--rm", "--read-only", *places[:2], *places[4:6], "link:1", "sh", "-c", script)
    assert done.stdout.splitlines() == ["directory 0:0 755", zero, zero]
    assert done.returncode == 0
    assert not (scratch / "zero").exists() and not Path("/zero").exists()
    done = tool("run", "--rm", *places[6:], "link:1", "true")
    assert (done.returncode, done.stderr) == (125, "minidock: mknod /bin/busybox/zero: Not a directory\n")
    assert tool.good("run", "--rm", "--device", "/dev/zero:/bin/busybox", "link:1", "echo", "still") == "still"


def test_score_sysctls_and_devices(tool: Tool) -> None:
    assert tool.good("run", "--rm", "--oom-score-adj", "500", BOX, "cat", "/proc/self/oom_score_adj") == "500"
    words = ("--sysctl", "kernel.msgmax=5000", "--sysctl", "net.ipv4.ip_forward=1")
    out = tool.good("run", "--rm", *words, BOX, "cat", "/proc/sys/kernel/msgmax", "/proc/sys/net/ipv4/ip_forward")
    assert out.split() == ["5000", "1"]
    device = os.stat("/dev/kmsg").st_rdev
    tool.good("run", "-d", "--name", "box", "--device", "/dev/kmsg:/dev/log/k:rw", BOX, "sleep", "100")
    assert tool.good("exec", "box", "stat", "-c", "%t %T", "/dev/log/k") == f"{os.major(device):x} {os.minor(device):x}"
    assert tool("exec", "box", "sh", "-c", "exec 3>>/dev/log/k").returncode == 0
    assert tool("run", "--rm", BOX, "sh", "-c", "mknod /k c 1 11 && exec 3>>/k").returncode != 0


def test_namespaces_of_the_host(tool: Tool) -> None:
    links = "for n in pid uts ipc; do readlink /proc/self/ns/$n; done"
    out = tool.good("run", "--rm", "--pid", "host", "--uts", "host", "--ipc", "host", BOX, "sh", "-c", links)
    assert out.split() == [os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "uts", "ipc")]
    tool.good("run", "-d", "--name", "box", "--pid", "host", BOX, "sh", "-c", "sleep 1234 & wait")
    assert tool("exec", "box", "ls", f"/proc/{os.getpid()}").returncode == 0
    tool.good("stop", "-t", "0", "box")
    assert "1234" not in tool.good(
        "run", "--rm", "--pid", "host", BOX, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--security-opt", "bogus"), 'Invalid --security-opt: "bogus"'),
        (("--security-opt", "x=1"), 'invalid --security-opt 2: "x=1"'),
        (("--security-opt", "seccomp=/nonex"), "opening seccomp profile (/nonex) failed"),
        (("--ulimit", "foo=1"), "invalid ulimit type: foo"),
        (("--ulimit", "nofile=3:2"), "soft limit must be less than or equal to hard limit: 3 > 2"),
        (("--sysctl", "kernel.x=1"), "sysctl 'kernel.x=1' is not whitelisted"),
        (("--sysctl", "net.x=1", "--network", "host"), "not allowed in host network namespace"),
        (("--oom-score-adj", "5000"), "range for oom score adj is [-1000, 1000]"),
        (("--device", "/dev/nope"), 'custom device "/dev/nope": no such file or directory'),
        (("--device", "nope"), "nope is not an absolute path"),
        (("--pid", "bogus"), "--pid: invalid PID mode"),
        (("--uts", "host", "--hostname", "x"), "conflicting options: hostname and the UTS mode"),
    ],
)
def test_refused_with_docker_s_words(tool: Tool, words: tuple[str, ...], message: str) -> None:
    done = tool("run", "--rm", *words, BOX, "true")
    # What is not there ends with 127, as with docker.
    assert (done.returncode, done.stdout) == (127 if "/dev/nope" in words else 125, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
