"""A broker in memory: the ports of RabbitMQ for one process, for tests and for `eco2 serve` without a broker.

Guarantees what `eco2/ports.py` promises, and ends with the process. `Server(Chaos(seed=…))` makes it as
unkind as a real broker can be.
"""

from eco2.broker.embedded.chaos import CALM, Chaos
from eco2.broker.embedded.connection import Embedded
from eco2.broker.embedded.server import Server

__all__ = ["CALM", "Chaos", "Embedded", "Server"]
