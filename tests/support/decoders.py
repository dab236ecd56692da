"""Decoders that misbehave, for the processes that decode pictures: those import them from here."""

import os
import time
from pathlib import Path

from eco2.picturefile import Format


def endless(data: bytes, kind: Format) -> bytes:
    """Never returns."""
    while True:
        time.sleep(60)


def crashing(data: bytes, kind: Format) -> bytes:
    """Ends the process at once, as a fault in a decoder does."""
    os._exit(11)


def greedy(data: bytes, kind: Format) -> bytes:
    """Takes more memory than there is."""
    return bytes(2**40)


def environment(data: bytes, kind: Format) -> bytes:
    """Shows the environment that the process was started with."""
    return Path("/proc/self/environ").read_bytes()


def pid(data: bytes, kind: Format) -> bytes:
    """Shows which process it is."""
    return str(os.getpid()).encode()
