"""vm/build: the root image and the kernels that are asked for."""

from __future__ import annotations

import argparse
import sys

from testmachine import image, kernels
from testmachine.cache import MachineError, say


def main() -> int:
    """Build what is missing and print where it lies."""
    words = argparse.ArgumentParser(prog="vm/build", description="Build the test machine's root image and kernel kits.")
    words.add_argument("--docker", action="store_true", help="an image with Debian's docker.io in it")
    words.add_argument("--kernel", action="append", metavar="LINE", choices=list(kernels.LINES), help="default: 6.1")
    words.add_argument("--all-kernels", action="store_true", help="a kit of every line")
    words.add_argument("--clean", action="store_true", help="remove all that was built before")
    chosen = words.parse_args()
    try:
        if chosen.clean:
            kernels.clean()
        print(image.build(chosen.docker))
        for line in kernels.LINES if chosen.all_kernels else chosen.kernel or ["6.1"]:
            print(kernels.kit(line))
    except MachineError as error:
        say(str(error))
        return 125
    return 0


if __name__ == "__main__":
    sys.exit(main())
