"""A container's start as a shell script: what --explain shows of the plan, the clone and the exec.

The plan's operations describe themselves; here are the steps around them. Where a step makes a process that takes all
the further ones, the clone and each namespace entered later, a here-document opens that ends after the last of them.
"""

from __future__ import annotations

from minidock.linux import capabilities
from minidock.linux.mount import shell_word
from minidock.linux.namespaces import describe_flags
from minidock.runtime.joined import JoinNamespace
from minidock.runtime.plan import first_flags
from minidock.runtime.rootfs import PivotRoot, ReadOnlyRoot
from minidock.runtime.spec import environment
from minidock.runtime.surroundings import EnterCgroupNamespace
from minidock.trace import END

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from minidock.runtime.operation import Operation
    from minidock.runtime.spec import ContainerSpec
    from minidock.trace import Trace

_CLONED = "CLONED"
# The shell's name for the parent's child while it goes on beside it.
CHILD = "$container"
_UNTIL_APART = f'[ "$(readlink /proc/{CHILD}/ns/net)" != "$(readlink /proc/$$/ns/net)" ]'


def trace_start(trace: Trace, spec: ContainerSpec, plan: Sequence[Operation], mask: int) -> None:
    """Tell every step of a start, in their order."""
    trace = _told_by(trace, spec)
    namespaces = describe_flags(first_flags(spec))
    beside = " &" if spec.places is not None else ""
    trace("clone", f"unshare --fork {namespaces} --propagation unchanged sh << '{_CLONED}'{beside}")
    words = [_CLONED]
    keeps_old_root = False
    for operation in plan:
        if isinstance(operation, ReadOnlyRoot):
            _let_go(trace)
            keeps_old_root = False
        for line in operation.describe().split("\n"):
            if isinstance(operation, (EnterCgroupNamespace, JoinNamespace)):
                words.append(f"ENTERED{len(words)}")
                line = f"exec {line} sh << '{words[-1]}'"
            trace(operation.kind, line)
        keeps_old_root |= isinstance(operation, PivotRoot)
    if keeps_old_root:
        _let_go(trace)
    for line in _describe_exec(spec, mask):
        trace("exec", line)
    while words:
        trace(END, words.pop())
    if beside:
        trace("clone", f"container=$!; until {_UNTIL_APART}; do sleep 0.01; done")


def _told_by(trace: Trace, spec: ContainerSpec) -> Trace:
    """Two processes share the work where there is a user namespace: each line is true, and the whole no script."""
    if spec.isolation is None or spec.isolation.user_map is None:
        return trace
    return lambda kind, text: trace(kind, f"# {text.removeprefix('# ')}") if kind != END else None


def trace_end(trace: Trace, spec: ContainerSpec) -> None:
    """The parent has done its part, too."""
    if spec.places is not None:
        _told_by(trace, spec)("exec", f"wait {CHILD}")


def _let_go(trace: Trace) -> None:
    trace(PivotRoot.kind, PivotRoot.describe_letting_go())


def _describe_exec(spec: ContainerSpec, mask: int) -> Iterator[str]:
    """The last steps of the new process, which becomes the container's program."""
    if spec.init:
        yield "# fork: the parent stays behind as PID 1, passes signals on and reaps; the child goes on here"
    if spec.seccomp_filter:
        yield f"# seccomp(SECCOMP_SET_MODE_FILTER), {len(spec.seccomp_filter) // 8} instructions"
    yield "# keyctl(KEYCTL_JOIN_SESSION_KEYRING), prctl(PR_SET_PDEATHSIG)"
    entries = environment(spec.env, hostname=spec.hostname, tty=spec.tty)
    names_home = any(entry.startswith("HOME=") and len(entry) > 5 for entry in entries)
    words = ["env", "-i", *(shell_word(entry) for entry in entries if names_home or not entry.startswith("HOME="))]
    if not names_home:
        words.append('HOME="$HOME"')
    words += ["setpriv", *_describe_user(spec), *_describe_privileges(spec, mask), "--"]
    home = f"HOME=~{spec.user.partition(':')[0] or 'root'}; " if not names_home else ""
    line = " ".join([*words, *map(shell_word, spec.argv)])
    yield f"{home}umask 022; cd {shell_word(spec.cwd)} && exec {line}"


def _describe_user(spec: ContainerSpec) -> list[str]:
    user, _, group = (shell_word(part) if part else "" for part in spec.user.partition(":"))
    added = "".join(f",{shell_word(each)}" for each in spec.group_add)
    if not user and not group:
        return ["--reuid 0", "--regid 0", f"--groups 0{added}"]
    user = user or "0"
    main = group or f'"$(id -g {user} || echo 0)"'
    groups = group or f"\"$(id -G {user} | tr ' ' , | grep . || echo 0)\""
    return [f"--reuid {user}", f"--regid {main}", f"--groups {groups}{added}"]


def _describe_privileges(spec: ContainerSpec, mask: int) -> list[str]:
    kept = "".join(f",+{word}" for word in capabilities.words(mask).split(",") if word)
    words = [f"--bounding-set=-all{kept}", "--inh-caps=-all", "--ambient-caps=-all"]
    return [*words, "--no-new-privs"] if spec.no_new_privileges else words
