"""The records by which all processes share a provider's budget: a leader grants, the journal tells everybody.

Every journal message has a `Header`. Times are seconds of the writer's own monotonic clock, which no other
process can read: `eco2.quota.writers` bounds how far two clocks are apart.
"""

import msgspec


class Header(msgspec.Struct, frozen=True, gc=False):
    """Heads each journal message of a process.

    `writer`: fresh for each start of a process, and after each loss of its state. `number`: counts its
    messages from 1; a message that is sent again keeps it. `sent`: when the message was encoded. `seen`: the
    last offset that its writer had read, or -1.
    """

    writer: str
    number: int
    sent: float
    seen: int


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag_field="type"):
    budget: str


class CallRequested(_Record, frozen=True, kw_only=True, tag="call_requested"):
    """A process asks to send a call of run `run` of job `job`. `id` is fresh for each request.

    `kind`: the call's. `tokens`: the most that the provider may count it as.
    """

    id: str
    job: str
    run: str
    kind: str
    tokens: float


class CallReleased(_Record, frozen=True, kw_only=True, tag="call_released"):
    """Call `id` was not sent and will not be, granted or not."""

    id: str


class CallCounted(_Record, frozen=True, kw_only=True, tag="call_counted"):
    """The provider counted call `id` as `tokens`."""

    id: str
    tokens: float


class CallThrottled(_Record, frozen=True, kw_only=True, tag="throttled"):
    """The provider refused call `id` as too fast, and asked for `retry_after` seconds, if any."""

    id: str
    retry_after: float | None = None


class EpochOpened(_Record, frozen=True, kw_only=True, tag="epoch"):
    """Its writer leads from now on, if `after` is the offset of the last leader's last valid record.

    The comparison makes it a compare-and-set: a leader that still writes stays. `after` is -1 for the first.
    """

    epoch: int
    after: int


class GrantedCall(msgspec.Struct, frozen=True, gc=False):
    """Call `id` may be sent before `by`, a time of its asker's own clock."""

    id: str
    by: float


class CallsGranted(_Record, frozen=True, kw_only=True, tag="granted"):
    """The leader grants `calls`, decided at `at` of its own clock; void unless it leads in `epoch`."""

    epoch: int
    at: float
    calls: tuple[GrantedCall, ...]


class Leads(_Record, frozen=True, kw_only=True, tag="leads"):
    """The leader has nothing to grant and is still there."""

    epoch: int


class WriterAbsent(_Record, frozen=True, kw_only=True, tag="absent"):
    """The leader has not heard from `writer` for long: its requests are dropped."""

    epoch: int
    writer: str


Record = (
    CallRequested
    | CallReleased
    | CallCounted
    | CallThrottled
    | EpochOpened
    | CallsGranted
    | Leads
    | WriterAbsent
)
