"""Layers that BuildKit built inside Docker's engine have directories with names of another kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from minidock.errors import FormatError
from minidock.ids import CacheID
from minidock.store.root import DataRoot
from tests.unit.test_store_layers import add, build

NAME = "zk2q9xw0v8u7t6s5r4p3n2m1l"


def test_such_a_layer_is_as_good_as_any(data_root: DataRoot) -> None:
    add(data_root, 1, 2)
    top = build(data_root, 1, 2)[-1]
    overlay = Path(data_root.overlay_path)
    link_id = (overlay / top.cache_id / "link").read_text()
    os.rename(overlay / top.cache_id, overlay / NAME)
    os.unlink(overlay / "l" / link_id)
    os.symlink(f"../{NAME}/diff", overlay / "l" / link_id)
    Path(data_root.layers.path, top.chain_id.hex, "cache-id").write_text(NAME)
    assert data_root.layers.links(top.chain_id)[0] == link_id
    assert data_root.layers.get(top.chain_id).cache_id == NAME
    assert build(data_root, 1, 2, 3)[1].cache_id == NAME
    assert data_root.faults() == []


def test_what_buildkit_keeps_for_itself_is_no_fault(data_root: DataRoot) -> None:
    (Path(data_root.overlay_path) / NAME / "diff").mkdir(parents=True)
    assert data_root.faults() == []


@pytest.mark.parametrize(
    "text", [NAME[:-1], NAME + "0", NAME.upper(), NAME[:-1] + "/", NAME[:-2] + "..", NAME[:-1] + "é"]
)
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(FormatError):
        CacheID.parse(text)
