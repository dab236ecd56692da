"""Server-sent events as pure functions: how they are written, where a client goes on, what it sees next."""

from dataclasses import dataclass, replace

import msgspec

from eco2.gateway.live import Live
from eco2.journal.state import TRUNCATED, EventId, JobState, Shown

COMMENT = b":\n\n"
LONGEST_ID = 40
"""Characters; no offset has more. A longer number is nobody's, and Python may refuse to read it."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far one connection has got: the last `seq` that it was shown (-1: none), and the text number
    `live` of which it has the first `pos` characters."""

    seq: int = -1
    live: int | None = None
    pos: int = 0


def opening(retry: float) -> bytes:
    """The first bytes of every stream: a comment, and the pause (seconds) before connecting again."""
    return b": eco2\n" + retry_line(retry)


def retry_line(retry: float) -> bytes:
    """Tells the client to connect again after `retry` seconds when the stream ends."""
    return b"retry: %d\n\n" % round(retry * 1000)


def frame(job_id: str, shown: Shown) -> bytes:
    """A durable event with its id; without one where events are missing."""
    if shown.stage == TRUNCATED:
        return b"event: truncated\ndata: %s\n\n" % msgspec.json.encode({"job_id": job_id})
    data: dict[str, object] = {
        "job_id": job_id,
        "stage": shown.stage,
        "status": shown.status,
        "seq": shown.seq,
        "ts": shown.ts,
        "progress": shown.progress,
    }
    if shown.result is not None:
        data["result"] = shown.result
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (
        str(shown.id).encode(),
        shown.stage.encode(),
        msgspec.json.encode(data),
    )


def delta_frame(stage: str, text: str) -> bytes:
    """A piece of live text; it has no id, so a client that comes back does not ask for what follows it."""
    return b"event: %s.delta\ndata: %s\n\n" % (stage.encode(), msgspec.json.encode({"text": text}))


def resume(state: JobState, last_event_id: str | None) -> Cursor:
    """Behind the event that the client saw last; from the start if that is none of this job's."""
    seen = _seen(last_event_id)
    return next((Cursor(shown.seq) for shown in state.shown if shown.id == seen), Cursor())


def may_be_ahead(state: JobState, last_event_id: str | None) -> bool:
    """True if the id may name an event of the job that another replica has shown and `state` lacks."""
    seen = _seen(last_event_id)
    return seen is not None and not state.ended and seen > state.shown[-1].id


def _seen(last_event_id: str | None) -> EventId | None:
    if not last_event_id or len(last_event_id) > LONGEST_ID:
        return None
    return EventId.parse(last_event_id)


def complete(state: JobState, cursor: Cursor) -> bool:
    """True if nothing will ever follow what the connection was shown."""
    return state.ended and cursor.seq >= state.shown[-1].seq


def advance(state: JobState, live: Live | None, cursor: Cursor) -> tuple[bytes, Cursor]:
    """What the connection has not been sent yet, and the cursor behind it."""
    news = [shown for shown in state.shown if shown.seq > cursor.seq]
    chunks = [frame(state.job, shown) for shown in news]
    if news:
        cursor = replace(cursor, seq=news[-1].seq)
    if live is not None and live.is_current(state):
        pos = cursor.pos if cursor.live == live.number else 0
        if text := live.text[pos:]:
            chunks.append(delta_frame(live.stage, text))
            cursor = replace(cursor, live=live.number, pos=len(live.text))
    return b"".join(chunks), cursor
