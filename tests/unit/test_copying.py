"""Large files: what is copied is what is hashed, and a failure on either thread ends both."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator

import pytest

from minidock.errors import StoreError
from minidock.formats.tarsplit import crc64
from minidock.store import copying
from minidock.store.copying import LargeCopier

MIB = 1 << 20


@pytest.fixture
def files() -> Iterator[tuple[int, int]]:
    source, target = os.memfd_create("source"), os.memfd_create("target")
    yield source, target
    os.close(source)
    os.close(target)


def content_of(handle: int) -> bytes:
    return os.pread(handle, 1 << 30, 0)


@pytest.mark.parametrize("size", [MIB, MIB + 1, 5 * MIB - 1, 9 * MIB + 511])
def test_copy_hash_and_checksum_agree(size: int, files: tuple[int, int]) -> None:
    source, target = files
    data = random.Random(size).randbytes(size)
    os.write(source, data)
    hasher = hashlib.sha256(b"before")
    copier = LargeCopier(hasher)
    try:
        checksum = copier.copy(source, target, size, is_sparse=False)
        # Drained: the caller may go on hashing at once.
        hasher.update(b"after")
    finally:
        copier.close()
    assert content_of(target) == data and checksum == crc64(data)
    assert hasher.digest() == hashlib.sha256(b"before" + data + b"after").digest()


@pytest.mark.parametrize("parts", [[(0, 1)], [(3 * MIB, 4096)], [(0, 4096), (2 * MIB, 8192), (6 * MIB - 1, 1)], []])
def test_holes(parts: list[tuple[int, int]], files: tuple[int, int]) -> None:
    source, target = files
    size = 6 * MIB
    os.ftruncate(source, size)
    for start, length in parts:
        os.pwrite(source, b"d" * length, start)
    hasher = hashlib.sha256()
    copier = LargeCopier(hasher)
    checksum = copier.copy(source, target, size, is_sparse=True)
    copier.close()
    data = content_of(source)
    assert content_of(target) == data and checksum == crc64(data)
    assert hasher.digest() == hashlib.sha256(data).digest()
    assert os.fstat(target).st_blocks <= os.fstat(source).st_blocks


def test_a_file_that_shrinks_is_an_error_and_one_that_grows_is_cut(files: tuple[int, int]) -> None:
    source, target = files
    os.write(source, bytes(3 * MIB))
    copier = LargeCopier(hashlib.sha256())
    with pytest.raises(StoreError, match="shorter"):
        copier.copy(source, target, 4 * MIB, is_sparse=False)
    copier.close()
    os.ftruncate(target, 0)
    copier = LargeCopier(hashlib.sha256())
    copier.copy(source, target, 2 * MIB, is_sparse=False)
    copier.close()
    assert os.fstat(target).st_size == 2 * MIB


class BrokenHasher:
    """Fails at the third chunk."""

    def __init__(self) -> None:
        self.calls = 0

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self.calls += 1
        if self.calls == 3:
            raise MemoryError("no room for the third")

    def hexdigest(self) -> str:
        return ""


def test_a_failure_of_the_hashing_thread_reaches_the_caller(files: tuple[int, int]) -> None:
    source, target = files
    os.ftruncate(source, 20 * MIB)
    copier = LargeCopier(BrokenHasher())
    with pytest.raises(MemoryError, match="third"):
        copier.copy(source, target, 20 * MIB, is_sparse=False)
    copier.close()


class SilentHasher(BrokenHasher):
    """Never comes back in time."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        self.calls += 1
        if self.calls == 2:
            waiting = os.pipe()
            self.pipe = waiting
            os.read(waiting[0], 1)
            os.close(waiting[0])


def test_no_wait_is_for_ever(files: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_WAIT_S", 0.2)
    source, target = files
    os.ftruncate(source, 20 * MIB)
    hasher = SilentHasher()
    copier = LargeCopier(hasher)
    with pytest.raises(StoreError, match="does not answer"):
        copier.copy(source, target, 20 * MIB, is_sparse=False)
    copier.close()
    os.close(hasher.pipe[1])
