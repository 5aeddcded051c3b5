"""Limits and names that several rooms share, each with the reason for its value."""

from __future__ import annotations

DEFAULT_ROOT = "/var/lib/minidock"
DRIVER = "overlay2"

# The engine refuses the 126th layer ("max depth exceeded"), so an image above it could not be handed over.
MAX_LAYERS = 125

# Caps on JSON from outside: far above any real document, far below what could hurt.
MAX_MANIFEST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 16 << 20

# One extended header (PAX records or a GNU long name); Go's archive/tar stops at the same size.
MAX_EXTENDED_HEADER_BYTES = 1 << 20

EMPTY_TAR_DIFF_ID = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"

# Go's zero time, 0001-01-01T00:00:00Z, which stands for "unknown" and "never" in the engine's documents.
ZERO_TIME_NS = -62_135_596_800_000_000_000

# containers/ and state that minidock keeps for itself live in this directory of the data root;
# dockerd deletes ROOT/tmp at each start, so nothing may be staged there.
PRIVATE_DIR = "minidock"
