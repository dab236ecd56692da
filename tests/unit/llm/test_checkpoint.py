"""Reading torch's old file format without torch, and without letting a file run code."""

import pickle
import struct
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from eco2.llm.checkpoint import read_checkpoint

HEAD = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})


class Written:
    """Pickles like a tensor does: a call of torch's rebuild function with a storage and a layout."""

    def __init__(self, storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        hooks: OrderedDict[str, int] = OrderedDict()
        self.layout = (StorageOf(storage), offset, shape, strides, False, hooks)

    def __reduce__(self) -> tuple[object, ...]:
        return sys.modules["torch._utils"].__dict__["_rebuild_tensor_v2"], self.layout


class StorageOf:
    def __init__(self, key: str) -> None:
        self.key = key


class Writer(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        if isinstance(value, StorageOf):
            return ("storage", sys.modules["torch"].__dict__["FloatStorage"], value.key, "cpu", 6, None)
        return None


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules with torch's names, so that pickle can write references to them."""
    root, parts = ModuleType("torch"), ModuleType("torch._utils")

    def rebuild() -> None:
        raise AssertionError("reading must not call it")

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    parts.__dict__["_rebuild_tensor_v2"] = rebuild
    root.__dict__["FloatStorage"] = type("FloatStorage", (), {"__module__": "torch"})
    monkeypatch.setitem(sys.modules, "torch", root)
    monkeypatch.setitem(sys.modules, "torch._utils", parts)


def write(path: Path, tensors: object, storages: dict[str, list[float]]) -> Path:
    with path.open("wb") as file:
        for part in HEAD:
            pickle.dump(part, file, 2)
        Writer(file, 2).dump(tensors)
        pickle.dump(list(storages), file, 2)
        for values in storages.values():
            file.write(struct.pack("<q", len(values)) + np.array(values, "<f4").tobytes())
    return path


def test_strides_and_offsets_are_respected(tmp_path: Path, torch: None) -> None:
    tensors = OrderedDict(
        rows=Written("s", 0, (2, 3), (3, 1)),
        columns=Written("s", 0, (2, 3), (1, 2)),
        tail=Written("s", 4, (2,), (1,)),
    )
    read = read_checkpoint(write(tmp_path / "w.pth", tensors, {"s": [0, 1, 2, 3, 4, 5]}))
    assert read["rows"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read["columns"].tolist() == [[0, 2, 4], [1, 3, 5]]
    assert read["tail"].tolist() == [4, 5]


def test_a_file_that_names_anything_else_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "w.pth", {"evil": Path("/tmp")}, {})
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        read_checkpoint(path)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(b"".join(pickle.dumps(part) for part in (1, 2, 3)))
    with pytest.raises(pickle.UnpicklingError, match="no torch checkpoint"):
        read_checkpoint(path)
