"""`python -m tests.bench [--quick] [--rounds N] [NAME…]`: print the table; no time is asserted.

NAME chooses the groups (run, exec, detach, api, list, commit, save, verify, see, load, disk, memory); --quick measures
one round of each.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from tests import real_images
from tests.bench import cases, running, seeing
from tests.bench.peers import Minidock, anonymous_peak_bytes, unmount_below
from tests.bench.table import print_rows

GROUPS = {
    "run": running.run_cases,
    "exec": running.exec_cases,
    "detach": running.detach_cases,
    "api": running.api_cases,
    "list": cases.list_cases,
    "commit": cases.commit_cases,
    "save": cases.save_cases,
    "load": cases.load_cases,
    "disk": cases.disk_cases,
    "verify": cases.verify_cases,
    "see": seeing.see_cases,
}
MEMORY_LIMIT_BYTES = 64 << 20


def memory_rows(hall: cases.Hall) -> list[tuple[str, ...]]:
    """The peak of anonymous memory of pull-tar on the largest images."""
    rows: list[tuple[str, ...]] = []
    for make in (real_images.big_file, lambda: cases.gzip_layers(real_images.ten_layers())):
        archive = make()
        engine = Minidock(hall.fresh("memory"))
        peak = anonymous_peak_bytes(*engine.load(archive))
        engine.close()
        verdict = "ok" if peak <= MEMORY_LIMIT_BYTES else "MISSED"
        shown = (f"memory, {archive.stem}", f"{peak >> 20} MB", "", "", "", f"{MEMORY_LIMIT_BYTES >> 20} MB")
        rows.append((*shown, verdict))
    return rows


def main() -> None:
    """Measure the chosen groups and print each row when it is known."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="minidock against its peers")
    parser.add_argument("--quick", action="store_true", help="one round of each case")
    parser.add_argument("--rounds", type=int, help="rounds of each case (default: its own)")
    parser.add_argument("groups", nargs="*", metavar="NAME", help=f"{', '.join(GROUPS)}, memory (default: all)")
    options = parser.parse_args()
    unknown = set(options.groups) - {*GROUPS, "memory"}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        parser.error("needs root")
    chosen = options.groups or [*GROUPS, "memory"]
    scratch = Path(tempfile.mkdtemp(prefix="minidock-bench-", dir="/dev/shm"))
    hall = cases.Hall(scratch)
    print_rows([], header=True)
    try:
        for name in chosen:
            if name == "memory":
                print_rows(running.memory_rows(hall), header=False)
                print_rows(memory_rows(hall), header=False)
                for row in seeing.memory_rows(hall):
                    print_rows([row], header=False)
                continue
            for case in GROUPS[name](hall):
                print_rows(case.rows(1 if options.quick else options.rounds), header=False)
    finally:
        hall.close()
        unmount_below(scratch)
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
