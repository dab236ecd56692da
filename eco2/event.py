"""The durable facts about jobs, as frozen values and as JSON on the journal.

One journal message is a batch: `{"v": 1, "events": [...]}`, in order. `docs/events.md` shows one of each.
Readers ignore unknown fields and unknown kinds of event; a batch of an unknown version is `DecodeError`.
`ts` is always Unix seconds.

Guarantees: what is decoded has numbers and names in the bounds of this module, so no reader checks them.
An event beyond them is as one of an unknown kind: skipped and counted.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from eco2.errors import DecodeError
from eco2.job import JSON, Job, Priority

EVENTS_VERSION = 1

Status = Literal["started", "completed", "failed", "cancelled"]


Time = Annotated[float, Meta(ge=0, le=1e11)]
"""Unix seconds, up to the year 5138: a time that a calendar can show."""
Name = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,200}\Z")]
"""The name of a pipeline or stage: on one line, since it becomes a line of an event stream."""
Duration = Annotated[float, Meta(ge=0, le=1e11)]
"""Seconds."""
Seq = Annotated[int, Meta(ge=0, le=1_000_000)]
Offset = Annotated[int, Meta(ge=-1, le=2**63 - 1)]
Moment = Annotated[float, Meta(ge=-1e11, le=1e11)]
"""Seconds of a monotonic clock, which may begin anywhere."""
Tokens = Annotated[float, Meta(ge=0, le=1e12)]
Limit = Annotated[float, Meta(gt=0, le=1e12)]
"""Of requests or tokens a minute."""
Number = Annotated[int, Meta(ge=1, le=2**63 - 1)]
MAX_USD = Decimal(1_000_000)
"""Of one day, or one stage."""
Usd = Annotated[float, Meta(gt=0, le=1e6)]
"""A limit; sums of costs are exact, see `amount`."""


def amount(text: object) -> Decimal | None:
    """Returns the journal's exact amount of USD; None if `text` is none, or more than `MAX_USD`."""
    if not isinstance(text, str) or len(text) > 100:
        return None
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    if not number.is_finite() or number.adjusted() > 6 or int(number.as_tuple().exponent) < -100:
        return None
    return number if 0 <= number <= MAX_USD else None


class _Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag_field="type"):
    ts: Time


class _BudgetEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag_field="type"):
    budget: str


class Header(msgspec.Struct, frozen=True, gc=False, rename={"writer": "w", "number": "n", "sent": "m"}):
    """Heads a journal message (`h` on the wire).

    `writer`: fresh for each start of a process, and after each loss of its state. `number`: counts its
    messages from 1; a message that is sent again keeps it. `sent`: when the message was encoded, in seconds
    of its writer's monotonic clock. `seen`: the last offset that its writer had read, or -1.
    """

    writer: str
    number: Number
    sent: Moment
    seen: Offset


class Queued(_Event, frozen=True, kw_only=True, tag="queued"):
    """A job was accepted. Of several with one (owner, key), the first in log order wins.

    `max_wait`, `timeout`, `deadline`, `max_usd`: see `eco2.job.Job`; release 0.1 wrote of these `deadline`.
    `resumes`: the ended job that this one replays, whose completed stages' `outputs` it begins with.
    """

    job: str
    pipeline: Name
    digest: str
    deadline: Time = 0.0
    max_wait: Duration = 0.0
    timeout: Duration = 0.0
    max_usd: Usd | None = None
    owner: str = ""
    key: str | None = None
    model: str | None = None
    priority: Priority = "interactive"
    resumes: str | None = None
    outputs: dict[str, JSON] = {}


def queued(job: Job, resumes: str | None = None, outputs: dict[str, JSON] | None = None) -> Queued:
    """Returns the event that accepts `job`."""
    return Queued(
        ts=job.accepted,
        job=job.id,
        pipeline=job.pipeline,
        digest=job.digest,
        deadline=job.deadline,
        max_wait=job.max_wait,
        timeout=job.timeout,
        max_usd=job.max_usd,
        owner=job.owner,
        key=job.key,
        model=job.model,
        priority=job.priority,
        resumes=resumes,
        outputs=outputs or {},
    )


class Superseded(_Event, frozen=True, kw_only=True, tag="superseded"):
    """The job lost the race for its key to job `by` and never runs.

    `by` is empty where its own gateway withdrew it, since it had to refuse the client.
    """

    job: str
    by: str


class RunStarted(_Event, frozen=True, kw_only=True, tag="run"):
    """A worker opens run `run`, the `attempt`-th (from 1) of the job.

    The highest attempt is the current run, among equals the first in log order;
    events of every other run are void. `exclusive` (`alone` on the wire): no other job runs in its process,
    since this one is suspected of crashing it. `over`: it takes the job over from a run that had no stage
    open up to this offset; void, but for its attempt, if that run has opened one behind it.
    """

    job: str
    run: str
    attempt: Annotated[int, Meta(ge=1, le=1_000_000)]
    worker: str
    exclusive: bool = msgspec.field(name="alone", default=False)
    over: Offset | None = None


class Released(_Event, frozen=True, kw_only=True, tag="released"):
    """The worker gave the job back without an end (a drain); another run may open at once.

    `retry`: `stage` failed and is tried again after `delay` seconds; else the job is as good as before.
    """

    job: str
    run: str
    reason: str
    retry: bool = False
    stage: str = ""
    delay: Annotated[int, Meta(ge=0)] = 0


class StageChanged(_Event, frozen=True, kw_only=True, tag="stage"):
    """A stage started, completed (then `output` is its checkpoint) or failed for good (then `error`).

    `seq` and `progress` are those of the client's contract, so that readers need not know the pipeline.
    `usage`: `{model, calls, input_tokens, cached_tokens, output_tokens, cost_usd}` of the stage's calls.
    `granted`: it started with its first call, which had waited for its turn until then.
    """

    job: str
    run: str
    stage: Name
    status: Status
    seq: Seq
    progress: Annotated[int, Meta(ge=0, le=100)]
    output: JSON | None = None
    error: JSON | None = None
    usage: JSON | None = None
    granted: bool = False


class CallCompleted(_Event, frozen=True, kw_only=True, tag="call_completed"):
    """Records a paid model call, so that a later run of the stage takes `reply` and pays nothing.

    `key` names the call within its stage; `digest` is the SHA-256 (hex) of what was asked. `reply` is
    `{value, model, usage}`, or `{error, model, usage}` of an answer that was of no use.
    """

    job: str
    run: str
    stage: Name
    key: str
    digest: str
    reply: JSON


class StepCompleted(_Event, frozen=True, kw_only=True, tag="step_completed"):
    """Records the value of a step for later runs of the stage; `key` as in a call."""

    job: str
    run: str
    stage: Name
    key: str
    value: object


class Done(_Event, frozen=True, kw_only=True, tag="done"):
    """The job's end; the first one in log order stands. `result` is all that a client reads.

    `run` is the run that ended it, or None if it ended without one. `dead`: its order is kept among the dead
    letters, since it may succeed after a repair. `cause`: why it failed, for operators, if the `result` has
    another text; no client sees it. `if_unstarted`: it is void once the job has started, so that no job
    expires from outside that was granted a call.
    """

    job: str
    run: str | None
    status: Literal["completed", "failed", "cancelled"]
    seq: Seq
    result: JSON
    dead: bool = False
    cause: str = ""
    if_unstarted: bool = False


class Marker(_Event, frozen=True, kw_only=True, tag="marker"):
    """Marks a position of the log for a barrier, which waits for its own; belongs to no job."""

    id: str


class Paused(_Event, frozen=True, kw_only=True, tag="paused"):
    """An operator halted the intake of every worker; `reason` is for people.

    `renewed`: written again by the sweep, for views that do not reach back to the first one. After a
    `resumed` it is void.
    """

    reason: str
    renewed: bool = False


class Resumed(_Event, frozen=True, kw_only=True, tag="resumed"):
    """An operator resumed the intake."""


class CallRequested(_BudgetEvent, frozen=True, kw_only=True, tag="call_requested"):
    """A process asks to send a call of run `run` of job `job`. `id` is fresh for each request.

    The others: as in `eco2.ports.GrantRequest`.
    """

    id: str
    job: str
    run: str
    kind: str
    tokens: Tokens
    offset: Offset = -1
    started: bool = False
    priority: Priority = "interactive"
    owner: str = ""
    age: Duration = 0.0
    max_wait: Duration = 0.0
    stage_started: StageChanged | None = None


class CallReleased(_BudgetEvent, frozen=True, kw_only=True, tag="call_released"):
    """Call `id` was not sent and will not be, granted or not."""

    id: str


class CallCounted(_BudgetEvent, frozen=True, kw_only=True, tag="call_counted"):
    """The provider counted call `id` as `tokens`."""

    id: str
    tokens: Tokens


class CallThrottled(_BudgetEvent, frozen=True, kw_only=True, tag="throttled"):
    """The provider refused call `id` as too fast, and asked for `retry_after` seconds, if any."""

    id: str
    retry_after: float | None = None


class LimitsNamed(_BudgetEvent, frozen=True, kw_only=True, tag="limits"):
    """Its writer may use so many calls and tokens a minute; None where it knows no limit.

    `given`: by its settings, so they hold while it runs. Else a provider's answer named them.
    """

    requests: Limit | None = None
    tokens: Limit | None = None
    given: bool = False


class EpochOpened(_BudgetEvent, frozen=True, kw_only=True, tag="epoch"):
    """Its writer leads from now on, if it had read (`seen`) the last valid record of the leader before it.

    The comparison makes it a compare-and-set: a leader that still writes stays. It also holds for a writer
    that started after the last leader's records had left its view. The record's offset names the epoch.
    `silence`: seconds since its writer read that last record, by its own clock.
    """

    silence: Annotated[float, Meta(ge=0, le=1e11)] = 0.0


class GrantedCall(msgspec.Struct, frozen=True, gc=False):
    """Call `id` may be sent before `by`, a time of its asker's own clock. `tokens`: as requested."""

    id: str
    by: Moment
    tokens: Tokens


class CallsGranted(_BudgetEvent, frozen=True, kw_only=True, tag="granted"):
    """The leader grants `calls`, decided at `at` of its own clock; void unless it leads in `epoch`."""

    epoch: Offset
    at: Moment
    calls: tuple[GrantedCall, ...]


class Leads(_BudgetEvent, frozen=True, kw_only=True, tag="leads"):
    """The leader has nothing to grant and is still there."""

    epoch: Offset


class WriterAbsent(_BudgetEvent, frozen=True, kw_only=True, tag="absent"):
    """The leader has not heard from `writer` for long: its requests are dropped."""

    epoch: Offset
    writer: str


class LargeCall(_Event, frozen=True, kw_only=True, tag="large"):
    """Told release 0.1 of a call that needs much of a minute's budget."""


class Spent(_Event, frozen=True, kw_only=True, tag="spent"):
    """Told release 0.1 what a day had cost so far."""


JobEvent = Queued | Superseded | RunStarted | Released | StageChanged | CallCompleted | StepCompleted | Done
IntakeEvent = Paused | Resumed
BudgetEvent = (
    CallRequested
    | CallReleased
    | CallCounted
    | CallThrottled
    | LimitsNamed
    | EpochOpened
    | CallsGranted
    | Leads
    | WriterAbsent
)
RetiredEvent = LargeCall | Spent
"""Written by release 0.1 and without a meaning now: readers pass over them."""
Event = JobEvent | IntakeEvent | Marker | BudgetEvent | RetiredEvent


class _Batch(msgspec.Struct, frozen=True):
    v: int
    events: list[Event]
    h: Header | None = None


class _Envelope(msgspec.Struct, frozen=True, omit_defaults=True):
    v: int
    events: list[msgspec.Raw] = msgspec.field(default_factory=list)
    h: Header | None = None


_encoder = msgspec.json.Encoder()
_batch = msgspec.json.Decoder(_Batch)
_envelope = msgspec.json.Decoder(_Envelope)
_event: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


_UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
"""The errors that the decoder can raise, also for lists that are nested too deeply."""


def encode_events(events: Sequence[Event]) -> bytes:
    """The batch as JSON, in the given order."""
    return encode_batch([encode_event(event) for event in events])


encode_event: Callable[[Event], bytes] = _encoder.encode
"""Encodes one event as JSON. Raises TypeError or ValueError for a value that JSON cannot hold."""


def encode_batch(events: Sequence[bytes], header: Header | None = None) -> bytes:
    """The batch of events that are encoded already."""
    return _encoder.encode(_Envelope(EVENTS_VERSION, [msgspec.Raw(event) for event in events], header))


def replace_surrogates(text: str) -> str:
    """Replaces half surrogate pairs by `?`: UTF-8, and so the wire, cannot hold them."""
    return text.encode(errors="replace").decode()


def decode_events(body: bytes) -> list[Event | None]:
    """Returns the events of a message in order: see `decode_message`."""
    return decode_message(body)[1]


def decode_message(body: bytes) -> tuple[Header | None, list[Event | None]]:
    """Returns the header, if there is one, and the events in order.

    None stands where this version does not know the event, so positions hold. Raises `DecodeError` for what
    is no batch or has an unknown version.
    """
    try:
        if (batch := _batch.decode(body)).v == EVENTS_VERSION:
            return batch.h, list(batch.events)
    except _UNREADABLE:
        pass  # one by one, to find the events that this version knows
    try:
        envelope = _envelope.decode(body)
    except _UNREADABLE as error:
        raise DecodeError(f"undecodable journal message: {error}") from error
    if envelope.v != EVENTS_VERSION:
        raise DecodeError(f"journal message of version {envelope.v}; this program reads {EVENTS_VERSION}")
    return envelope.h, [_decode_one(raw) for raw in envelope.events]


def _decode_one(raw: msgspec.Raw) -> Event | None:
    try:
        return _event.decode(raw)
    except _UNREADABLE:
        return None
