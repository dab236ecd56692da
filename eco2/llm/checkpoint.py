"""Reads a torch checkpoint of the old (before zip) format without torch.

A checkpoint is a pickle, and a pickle can run code. This reader lets the file name exactly four objects and
refuses all others, so that weights stay data. torch itself (2 GB) is not needed to read 18 MB.
"""

import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    kind: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class _Slice:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_: object) -> _Slice:
    """Returns a tensor's place in its storage; strides count elements."""
    return _Slice(storage, offset, tuple(shape), tuple(strides))


_NAMES: Mapping[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    """Builds slices of storages whose bytes follow later in the file."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of weights") from None

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, _, _ = pid
        return _Storage(key, kind)


def read_checkpoint(path: Path) -> dict[str, NDArray[np.float32]]:
    """Reads the float tensors of the file by name (the integer ones only count training steps).

    Raises `pickle.UnpicklingError` for any other kind of file.
    """
    with path.open("rb") as file:
        head = [_Unpickler(file).load() for _ in range(3)]
        if head[:2] != [_MAGIC, _PROTOCOL]:
            raise pickle.UnpicklingError(f"{path.name} is no torch checkpoint of the old format")
        slices: dict[str, _Slice] = _Unpickler(file).load()
        keys: list[str] = _Unpickler(file).load()
        kinds = {piece.storage.key: piece.storage.kind for piece in slices.values()}
        storages: dict[str, NDArray[Any]] = {}
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            storages[key] = np.frombuffer(file.read(count * kinds[key].itemsize), dtype=kinds[key])
    floats = {name: piece for name, piece in slices.items() if piece.storage.kind.kind == "f"}
    return {name: tensor(storages[piece.storage.key], piece) for name, piece in floats.items()}


def tensor(storage: NDArray[np.float32], piece: _Slice) -> NDArray[np.float32]:
    """Returns a contiguous copy: the weights were stored channels-last."""
    strides = tuple(step * storage.itemsize for step in piece.strides)
    view = np.lib.stride_tricks.as_strided(storage[piece.offset :], piece.shape, strides, writeable=False)
    return np.ascontiguousarray(view)
