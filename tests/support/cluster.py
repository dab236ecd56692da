"""A RabbitMQ cluster of three nodes for tests, on this machine: each with its own ports and data, one epmd.

A node that is cut off keeps running and keeps its clients; only the other nodes are out of its reach, as by a
broken switch. For that it gets a wrong cookie for the others: no network, and no root, is needed.
Methods block.
"""

import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.rabbitmq import Node, answers_amqp, free_ports

NAMES = ("eco2-1@localhost", "eco2-2@localhost", "eco2-3@localhost")

_CONFIG = "\n".join(
    [
        "cluster_formation.peer_discovery_backend = classic_config",
        *(f"cluster_formation.classic_config.nodes.{i} = {name}" for i, name in enumerate(NAMES, 1)),
        # The side without a majority stops serving until the others are back.
        "cluster_partition_handling = pause_minority",
    ]
)


class Cluster:
    """Three nodes in `folder`; `nodes[0]` runs the epmd of all."""

    def __init__(self, folder: Path) -> None:
        (epmd,) = free_ports(1)
        self._home = folder / "home"
        self.nodes = [
            Node(
                folder / name.partition("@")[0], _CONFIG, name=name, home=self._home, epmd=(epmd, not number)
            )
            for number, name in enumerate(NAMES)
        ]

    def start(self) -> None:
        """Returns when all three answer and know each other (about 25 s). Raises NodeFailed."""
        self._write_cookie()
        self.nodes[0].start_epmd()
        # Side by side: from RabbitMQ 4 on a node waits at its first start until another one answers.
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            for started in [threads.submit(node.start) for node in self.nodes]:
                started.result()
        for node in self.nodes:
            node.ctl("await_startup")  # it serves AMQP a moment before it is up
            node.ctl("await_online_nodes", str(len(self.nodes)))

    def stop(self) -> None:
        """The end of all, and of their data."""
        for node in reversed(self.nodes):
            node.stop()
            shutil.rmtree(node.folder / "data", ignore_errors=True)

    def living(self) -> list[Node]:
        """The nodes that answer AMQP now."""
        return [node for node in self.nodes if node.running and answers_amqp(node.port)]

    def cut_off(self, node: Node) -> None:
        """From now on `node` and the others cannot reach each other."""
        self._cookie(node, "'cut'")

    def join(self, node: Node) -> None:
        """They can again. A node that paused itself comes back by itself."""
        self._cookie(node, "erlang:get_cookie()")

    def _write_cookie(self) -> None:
        """Before any node starts: each would write one of its own, and read one that is half written."""
        path = self._home / ".erlang.cookie"
        if not path.exists():
            self._home.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(16))
            path.chmod(0o400)

    def _cookie(self, node: Node, cookie: str) -> None:
        """All links at once: nodes that lose each other in turn see a partial partition, and pause, too."""
        names = ", ".join(f"'{other.name}'" for other in self.nodes if other is not node)
        each = f"erlang:set_cookie(N, {cookie}), erlang:disconnect_node(N)"
        node.ctl("eval", f"[begin {each} end || N <- [{names}]].")
