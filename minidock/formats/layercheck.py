"""Layers that need not be unpacked, since the store has them, are still read and held against their digests.

An archive whose bytes do not hash to what it promises is refused whether or not its layers are known: engines that
skip known layers let a damaged archive pass on one machine and fail on the next.
"""

from __future__ import annotations

import os
import threading
from hashlib import sha256

from minidock.errors import BadArchive, DigestMismatch
from minidock.formats.compression import Decompressor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.formats.archivedimage import LayerBlob
    from minidock.ids import DiffID

_PIECE_BYTES = 1 << 20


def check_layers(layers: list[tuple[LayerBlob, DiffID]]) -> None:
    """Read layers and compare the digests of their bytes and of their uncompressed tars, side by side.

    Raises: DigestMismatch, BadArchive; the first failure, after all threads have ended
    """
    queue = sorted(layers, key=lambda layer: layer[0].length_bytes)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while queue and not failures:
                check_layer(*queue.pop(), failures)
        except IndexError:
            return
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failures.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(len(queue), len(os.sched_getaffinity(0))))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:
        # Interrupted: the threads stop at their next piece.
        failures.append(error)
        raise
    if failures:
        raise failures[0]


def check_layer(blob: LayerBlob, diff_id: DiffID, failures: list[BaseException]) -> None:
    """Read one layer; stops early, without a result, once failures has something in it."""
    stream = None if blob.compression == "none" else Decompressor(blob.compression)
    stored, plain = sha256(), sha256()
    buffer = memoryview(bytearray(_PIECE_BYTES))
    done = 0
    while done < blob.length_bytes and not failures:
        size = os.preadv(blob.fd, [buffer[: blob.length_bytes - done]], blob.offset + done)
        if not size:
            raise BadArchive(f"layer {blob.key}: its file was cut while it was read")
        done += size
        stored.update(buffer[:size])
        if stream is not None:
            for piece in stream.feed(bytes(buffer[:size])):
                plain.update(piece)
    if failures:
        return
    if stream is not None:
        stream.finish()
    blob_digest = "sha256:" + stored.hexdigest()
    if blob.blob_digest is not None and blob_digest != blob.blob_digest:
        raise DigestMismatch(f"layer {blob.key}: blob digest", expected=blob.blob_digest, actual=blob_digest)
    actual = blob_digest if stream is None else "sha256:" + plain.hexdigest()
    if actual != diff_id:
        raise DigestMismatch(f"layer {blob.key}: diff_id", expected=diff_id, actual=actual)
