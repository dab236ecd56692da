"""How large a fault is made: in full by `make fault`, small and quick by `make test`."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is. Times in seconds: `call` is the mean of one model call, `long` how long a fault
    lasts that must outlast time-outs, `patience` the longest wait of a client.

    `races`: how often one key is raced for. `workers`: how many are replaced in turn.
    """

    jobs: int
    clients: int
    call: float
    holder_timeout: float
    heartbeat: int
    long: float
    patience: float
    races: int
    workers: int
    publish_timeout: float = 5.0

    @property
    def env(self) -> dict[str, str]:
        return {
            "ECO2_HOLDER_TIMEOUT": f"{self.holder_timeout:g}",
            "ECO2_HEARTBEAT": str(self.heartbeat),
            "ECO2_PUBLISH_TIMEOUT": f"{self.publish_timeout:g}",
        }

    @property
    def lasting(self) -> "Size":
        """With calls so long that all jobs are in flight at once, however slow the machine is."""
        return replace(self, call=3 * self.call)

    @property
    def takeover(self) -> float:
        """Seconds in which the jobs of a killed worker must go on."""
        return self.holder_timeout + 5.0


FULL = Size(
    jobs=100,
    clients=500,
    call=2.0,
    holder_timeout=15.0,
    heartbeat=10,
    long=30.0,
    patience=210.0,
    races=200,
    workers=3,
)
FAST = Size(
    jobs=12,
    clients=24,
    call=0.4,
    holder_timeout=4.0,
    heartbeat=1,
    long=6.0,
    patience=40.0,
    races=20,
    workers=2,
    publish_timeout=2.0,
)
