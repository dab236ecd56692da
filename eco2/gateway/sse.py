"""Server-sent events as pure functions: how they are written, where a client goes on, what it sees next.

Two details of the format exist for clients that read less strictly than the standard. `id:` is the last line
of a frame, because some commit it when its line arrives: behind `data:`, a connection that is cut inside a
frame cannot move their cursor past an event that they never delivered. And no blank line follows comments and
`retry:`, because some deliver an empty message at each blank line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from eco2.gateway.live import Live
from eco2.journal.state import TRUNCATED, EventId, JobState, VisibleEvent

COMMENT = b":\n"
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
    return b"retry: %d\n" % round(retry * 1000)


def frame(job_id: str, shown: VisibleEvent) -> bytes:
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
    return b"event: %s\ndata: %s\nid: %s\n\n" % (
        shown.stage.encode(),
        msgspec.json.encode(data),
        str(shown.id).encode(),
    )


def done_message(job_id: str) -> bytes:
    """An unnamed message without id that reports a failed job's end as `completed`.

    For the existing Eco² app: it acts on `done` only if the status is `completed` (it then fetches the
    result, which says `failed`), and otherwise polls for two minutes. Listeners of named events do not get
    it.
    """
    data = {"job_id": job_id, "stage": "done", "status": "completed", "progress": 100}
    return b"data: %s\n\n" % msgspec.json.encode(data)


def delta_frame(stage: str, text: str) -> bytes:
    """A piece of live text; it has no id, so a client that comes back does not ask for what follows it."""
    return b"event: %s.delta\ndata: %s\n\n" % (stage.encode(), msgspec.json.encode({"text": text}))


def last_event_id(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The id of the last event that the client has seen, or None.

    A client that reconnects repeats the URL that it began with and adds what it has seen since: browsers as
    the header, polyfills as `lastEventId`. So these two are newer than `last_event_id`, which the page wrote.
    """
    return headers.get("last-event-id") or query.get("lastEventId") or query.get("last_event_id") or None


def resume(state: JobState, last_event_id: str | None) -> Cursor:
    """Behind the event that the client saw last; from the start if that is none of this job's."""
    seen = _seen(last_event_id)
    return next((Cursor(shown.seq) for shown in state.visible_events if shown.id == seen), Cursor())


def may_be_ahead(state: JobState, last_event_id: str | None) -> bool:
    """True if the id may name an event of the job that another replica has shown and `state` lacks."""
    seen = _seen(last_event_id)
    return seen is not None and not state.ended and seen > state.visible_events[-1].id


def _seen(last_event_id: str | None) -> EventId | None:
    if not last_event_id or len(last_event_id) > LONGEST_ID:
        return None
    return EventId.parse(last_event_id)


def complete(state: JobState, cursor: Cursor) -> bool:
    """True if nothing will ever follow what the connection was shown."""
    return state.ended and cursor.seq >= state.visible_events[-1].seq


def advance(
    state: JobState, live: Live | None, cursor: Cursor, *, with_message: bool = False
) -> tuple[bytes, Cursor]:
    """What the connection has not been sent yet, and the cursor behind it.

    `with_message`: a `done` that did not complete is followed by `done_message`.
    """
    news = [shown for shown in state.visible_events if shown.seq > cursor.seq]
    chunks = [frame(state.job, shown) for shown in news]
    if news:
        cursor = replace(cursor, seq=news[-1].seq)
        if with_message and state.ended and state.status != "completed":
            chunks.append(done_message(state.job))
    if live is not None and live.is_current(state):
        pos = cursor.pos if cursor.live == live.number else 0
        if text := live.text[pos:]:
            chunks.append(delta_frame(live.stage, text))
            cursor = replace(cursor, live=live.number, pos=len(live.text))
    return b"".join(chunks), cursor
