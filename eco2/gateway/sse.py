"""Server-sent events as pure functions: how they are written, where a client resumes, what it gets next.

Two details of the format exist for clients that read less strictly than the standard. `id:` is the last line
of a frame, because some commit it when its line arrives: after `data:`, a connection that is cut inside a
frame cannot move their cursor past an event that they never delivered. And no blank line follows comments and
`retry:`, because some deliver an empty message at each blank line.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from eco2.journal.state import TRUNCATED, EventId, JobState, PutOff, VisibleEvent

COMMENT = b":\n"
MAX_ID = 40
"""Characters; no offset has more. Python may refuse to read a longer number."""


@dataclass(frozen=True, slots=True)
class LiveText:
    """A text so far. `number`: unique; a text that starts over gets a new one."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class LiveStage:
    """Holds what is live of `stage` in run `run`.

    `texts`: by the name of the call that writes it, see `eco2.delta.Delta`. `branches`: done, and in all.
    """

    run: str
    stage: str
    texts: Mapping[str, LiveText] = field(default_factory=dict)
    branches: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place that one connection has reached.

    `seen`: the last event that it was sent, None before the first. `live`: of stage `stage`, by call, the
    number of the text that it was sent, and of how many characters. `branches`: of that stage, as last sent.
    `put_off`: number of the last run of which it was told that it was put off.
    """

    seen: EventId | None = None
    stage: str = ""
    live: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    branches: tuple[int, int] | None = None
    put_off: int = 0


def opening(retry: float) -> bytes:
    """Writes the first bytes of every stream: a comment, and the pause (seconds) before reconnecting."""
    return b": eco2\n" + retry_line(retry)


def retry_line(retry: float) -> bytes:
    """Makes the client wait `retry` seconds before it connects again."""
    return b"retry: %d\n" % round(retry * 1000)


def frame(job_id: str, shown: VisibleEvent) -> bytes:
    """Writes a durable event with its id. The one that stands for lost events has none."""
    if shown.stage == TRUNCATED:
        return b"event: truncated\ndata: %s\n\n" % msgspec.json.encode({"job_id": job_id})
    data = {"job_id": job_id, **msgspec.structs.asdict(shown)}
    del data["id"]
    if shown.result is None:
        del data["result"]
    return b"event: %s\ndata: %s\nid: %s\n\n" % (
        shown.stage.encode(),
        msgspec.json.encode(data),
        str(shown.id).encode(),
    )


def done_message(job_id: str) -> bytes:
    """Writes an unnamed message without id that reports a failed job's end as `completed`.

    For the existing Eco² app: it acts on `done` only if the status is `completed` (it then fetches the
    result, which says `failed`), and otherwise polls for two minutes. Listeners for named events do not get
    it.
    """
    data = {"job_id": job_id, "stage": "done", "status": "completed", "progress": 100}
    return b"data: %s\n\n" % msgspec.json.encode(data)


def delta_frame(stage: str, text: str, call: str = "") -> bytes:
    """Writes a piece of live text, of the call of that name."""
    return _live_frame(stage, "delta", {"text": text} | ({"call": call} if call else {}))


def reset_frame(stage: str, call: str) -> bytes:
    """Writes that a text of which a part was sent starts anew."""
    return _live_frame(stage, "reset", {"call": call} if call else {})


def progress_frame(stage: str, done: int, total: int) -> bytes:
    """Writes how many branches of the stage are done, of how many."""
    return _live_frame(stage, "progress", {"done": done, "total": total})


def _live_frame(stage: str, kind: str, data: Mapping[str, object]) -> bytes:
    """Writes a live event. It has no id, so a returning client does not ask for what follows it."""
    return b"event: %s.%s\ndata: %s\n\n" % (stage.encode(), kind.encode(), msgspec.json.encode(data))


def retrying_frame(state: JobState, put_off: PutOff, now: float) -> bytes:
    """Writes that a stage is tried again, and when; without id, as live text. `now`: Unix seconds."""
    data = {
        "job_id": state.job,
        "stage": put_off.stage,
        "attempt": state.retries + 1,
        "eta_seconds": min(put_off.delay, max(0, math.ceil(put_off.until - now))),
    }
    return b"event: retrying\ndata: %s\n\n" % msgspec.json.encode(data)


def last_event_id(headers: Mapping[str, str], query: Mapping[str, str]) -> EventId | None:
    """Returns the id of the last event that the client has seen, or None.

    A client that reconnects repeats the URL that it began with and adds what it has seen since: browsers as
    the header, polyfills as `lastEventId`. So these two are newer than `last_event_id`, which the page wrote.
    """
    text = headers.get("last-event-id") or query.get("lastEventId") or query.get("last_event_id") or ""
    return EventId.parse(text) if len(text) <= MAX_ID else None


def resume(state: JobState, seen: EventId | None) -> Cursor:
    """Returns the place after the event that the client saw last; the start if the job has no such event."""
    return Cursor(seen if any(shown.id == seen for shown in state.visible_events) else None)


def may_be_ahead(state: JobState, seen: EventId | None) -> bool:
    """Returns True if another replica may have shown an event of the job that `state` lacks."""
    return seen is not None and not state.ended and seen > state.visible_events[-1].id


def complete(state: JobState, cursor: Cursor) -> bool:
    """Returns True if nothing can follow what the connection was sent."""
    return state.ended and cursor.seen is not None and cursor.seen >= state.visible_events[-1].id


def is_over(state: JobState, stage: str) -> bool:
    """Returns True if no live text of the stage can follow."""
    return state.ended or any(
        shown.stage == stage and shown.status != "started" for shown in state.visible_events
    )


def advance(
    state: JobState, live: LiveStage | None, cursor: Cursor, *, now: float, with_message: bool = False
) -> tuple[bytes, Cursor]:
    """Returns the frames that the connection lacks, and the cursor after them.

    `now`: Unix seconds. `with_message`: a `done` that did not complete is followed by `done_message`.
    """
    unseen = [shown for shown in state.visible_events if cursor.seen is None or shown.id > cursor.seen]
    chunks = [frame(state.job, shown) for shown in unseen]
    if unseen:
        cursor = replace(cursor, seen=unseen[-1].id)
        if with_message and state.ended and state.status != "completed":
            chunks.append(done_message(state.job))
    last = state.visible_events[-1]
    running = (state.run, last.stage) if last.status == "started" else None
    if live is not None and (live.run, live.stage) == running:
        live_chunks, cursor = advance_live(live, cursor)
        chunks += live_chunks
    if state.retrying is not None and cursor.put_off != state.attempt:
        chunks.append(retrying_frame(state, state.retrying, now))
        cursor = replace(cursor, put_off=state.attempt)
    return b"".join(chunks), cursor


def advance_live(live: LiveStage, cursor: Cursor) -> tuple[list[bytes], Cursor]:
    """Returns the live frames that the connection lacks, and the cursor after them."""
    if cursor.stage != live.stage:
        cursor = replace(cursor, stage=live.stage, live={}, branches=None)
    chunks: list[bytes] = []
    sent = dict(cursor.live)
    for call, text in live.texts.items():
        number, pos = sent.get(call, (text.number, 0))
        again = number != text.number
        if new := text.text[0 if again else pos :]:
            if again:
                chunks.append(reset_frame(live.stage, call))
            chunks.append(delta_frame(live.stage, new, call))
            sent[call] = text.number, len(text.text)
    if live.branches is not None and live.branches != cursor.branches:
        chunks.append(progress_frame(live.stage, *live.branches))
    return chunks, replace(cursor, live=sent, branches=live.branches)
