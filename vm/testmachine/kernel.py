"""vm/kernel: kernel kits, fetched and made."""

from __future__ import annotations

import argparse
import sys

from testmachine import kernels
from testmachine.cache import MachineError, say


def main() -> int:
    """Fetch each line's newest kernel and print its release and kit."""
    words = argparse.ArgumentParser(prog="vm/kernel", description="Fetch kernels from Debian and make their kits.")
    words.add_argument("line", nargs="+", choices=list(kernels.LINES))
    chosen = words.parse_args()
    try:
        for line in chosen.line:
            kit = kernels.kit(line)
            print(line, (kit / "release").read_text().strip(), kit)
    except MachineError as error:
        say(str(error))
        return 125
    return 0


if __name__ == "__main__":
    sys.exit(main())
