"""Judges the broker's versions: too old to be used, or with a fault that an operator should know.

`docs/compatibility.md` lists what was tried.
"""

import re

from eco2.broker.rabbitmq.connect import Server

OLDEST = (3, 10, 0)
"""The first version with dead letters that are kept until they have arrived (at-least-once)."""
DISCONNECTED = (4, 3, 0)
"""From here on a quorum queue waits for the consumers of a node that is gone."""


def too_old(server: Server) -> str | None:
    """Says why `server` cannot be used, if so."""
    version = parse_version(server)
    if version is None or version >= OLDEST:
        return None
    return (
        f"{server} is too old: Eco² needs RabbitMQ 3.10 or newer (4.x is advised), for dead letters that "
        "cannot be lost. Upgrade the broker"
    )


def cautions(server: Server) -> list[str]:
    """Lists warnings about `server` for operators, a sentence each."""
    version = parse_version(server)
    if version is None:
        return [f"{server} is not a version of RabbitMQ that is known here: nothing was tried on it."]
    found = []
    if version >= DISCONNECTED:
        found.append(
            f"{server}: when a node of a cluster dies, quorum queues without "
            "x-consumer-disconnected-timeout keep its consumers' messages for 60 s. Queues that this version "
            "makes have it; for older ones set consumer_disconnected_timeout = 5000 in rabbitmq.conf."
        )
    return found


def parse_version(server: Server) -> tuple[int, int, int] | None:
    """Returns major, minor and patch version of a RabbitMQ; None for any other server."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", server.version)
    if server.product != "RabbitMQ" or found is None:
        return None
    major, minor, patch = found.groups("0")
    return int(major), int(minor), int(patch)
