"""The test kit for pipelines: jobs in process, with scripted answers, in virtual time.

`run` is one job to its end. `installation` is for several jobs at once, under `@virtual`; `World` starts and
kills single processes. No part needs pytest, a broker or a key; production code never imports this package.
"""

from eco2.broker.embedded import CALM, Chaos
from eco2.errors import ProviderDown, ProviderTimeout, RateLimited
from eco2.pacer import Limits
from eco2.testing.clock import Deadlock, VirtualClock, run_virtual, virtual
from eco2.testing.model import Fault, Script, Scripted, ScriptedModel
from eco2.testing.run import Installation, Ran, installation, run
from eco2.testing.world import Process, Remote, World, until

__all__ = [
    "CALM",
    "Chaos",
    "Deadlock",
    "Fault",
    "Installation",
    "Limits",
    "Process",
    "ProviderDown",
    "ProviderTimeout",
    "Ran",
    "RateLimited",
    "Remote",
    "Script",
    "Scripted",
    "ScriptedModel",
    "VirtualClock",
    "World",
    "installation",
    "run",
    "run_virtual",
    "until",
    "virtual",
]
