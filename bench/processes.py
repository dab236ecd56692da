"""Reads the kernel's figures about processes from /proc: memory, CPU, connections."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_ESTABLISHED = "01"


def family(pid: int) -> list[int]:
    """Returns the process and all its descendants."""
    return list(_family(pid))


def _family(pid: int) -> Iterator[int]:
    yield pid
    for thread in (PROC / str(pid)).glob("task/*/children"):
        try:
            children = thread.read_text().split()
        except OSError:
            continue  # it has ended meanwhile
        for child in children:
            yield from _family(int(child))


def pss(pids: Iterable[int]) -> float:
    """Returns the MB that they hold together; shared memory is divided among the sharers (PSS)."""
    return sum(_pss(pid) for pid in pids) / 1000


def _pss(pid: int) -> float:
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1.024 for line in lines if line.startswith("Pss:"))


def cpu(pids: Iterable[int]) -> float:
    """Returns the CPU seconds that they have used so far, in user and kernel mode."""
    return sum(_cpu(pid) for pid in pids)


def _cpu(pid: int) -> float:
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def connections(port: int) -> int:
    """Returns the number of connections of the listener at this port of the loopback."""
    end = f":{port:04X}"
    rows = [line.split() for line in (PROC / "net" / "tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(end) and row[3] == _ESTABLISHED for row in rows)
