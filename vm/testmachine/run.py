"""vm/run: one command in the machine."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from testmachine import image, kernels
from testmachine.cache import MachineError, say
from testmachine.machine import CGROUP_WORDS, Machine, clear, end_on_signals, run


def main() -> int:
    """Run the command and end with its status; 125 when the machine itself failed."""
    words = argparse.ArgumentParser(
        prog="vm/run",
        usage="vm/run [OPTIONS] -- COMMAND…",
        description="Run a command as root in the test machine, in /src, a copy of this source tree. "
        "What it leaves in $VM_OUT goes to --out. The exit status is its own; 125 when the machine itself failed.",
    )
    words.add_argument("--kernel", default="6.1", metavar="LINE", help=f"one of {', '.join(kernels.LINES)}")
    words.add_argument("--quick", action="store_true", help="the command as PID 1's only child, without systemd")
    words.add_argument("--cgroup", default="v2", choices=list(CGROUP_WORDS))
    words.add_argument("--docker", action="store_true", help="with Debian's dockerd installed")
    words.add_argument("--out", type=Path, metavar="DIR", help="where the artifacts go")
    words.add_argument("--cpus", type=int, default=min(2, os.cpu_count() or 1))
    words.add_argument("--memory", type=int, default=2048, metavar="MIB")
    words.add_argument("--timeout", type=int, metavar="S", help="end the machine after this time; default: never")
    words.add_argument("command", nargs="+")
    chosen = words.parse_args()
    end_on_signals()
    # One word is shell text, several are words of one command.
    command = chosen.command[0] if len(chosen.command) == 1 else shlex.join(chosen.command)
    try:
        machine = Machine(
            image.build(chosen.docker),
            kernels.kit(chosen.kernel),
            quick=chosen.quick,
            cgroup=chosen.cgroup,
            cpus=chosen.cpus,
            memory_mib=chosen.memory,
            timeout_s=chosen.timeout,
        )
        if chosen.out is not None:
            clear(chosen.out)
        return run(machine, command, chosen.out)
    except MachineError as error:
        say(str(error))
        return 125
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
