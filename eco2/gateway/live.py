"""The live text of running stages, as far as it is written. Connections pull from here what they lack.

So there is no buffer per client: a late one gets the text so far, a slow one more at once. It is a courtesy,
not a promise: text whose beginning was lost is not shown; the completed stage brings all of it.
"""

from dataclasses import dataclass, replace

from eco2.delta import Delta
from eco2.journal.state import JobState

MOST_TEXTS = 10_000
"""Texts held at once; the oldest go first. Only jobs that never end come near it."""


@dataclass(frozen=True, slots=True)
class Live:
    """The text of `stage` in run `run` so far. `number`: unique; a text that starts over gets a new one."""

    number: int
    run: str
    stage: str
    text: str

    def is_current(self, state: JobState) -> bool:
        """True between the stage's `started` and its end, in the job's current run."""
        last = state.visible_events[-1]
        return self.run == state.run and self.stage == last.stage and last.status == "started"


class LiveText:
    def __init__(self) -> None:
        self._texts: dict[str, Live] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._texts)

    def get(self, job_id: str) -> Live | None:
        """The job's latest text, or None."""
        return self._texts.get(job_id)

    def take(self, delta: Delta, state: JobState | None) -> bool:
        """Adds a piece; False if it is of no use: void run, ended stage, or its beginning was lost.

        `state`: the job as the journal's tail shows it. A piece may be ahead of that, or behind.
        """
        if state is None or _over(state, delta.stage):
            return False
        live = self._texts.get(delta.job)
        if live is not None and live.run == state.run != delta.run:
            return False
        if delta.pos == 0:
            self._number += 1
            self._texts[delta.job] = Live(self._number, delta.run, delta.stage, delta.text)
            if len(self._texts) > MOST_TEXTS:
                del self._texts[next(iter(self._texts))]
            return True
        if live is None or (live.run, live.stage, len(live.text)) != (delta.run, delta.stage, delta.pos):
            return False
        self._texts[delta.job] = replace(live, text=live.text + delta.text)
        return True

    def clear(self) -> None:
        """Drops every text."""
        self._texts.clear()

    def forget(self, state: JobState) -> None:
        """Drops the job's text if its stage is over."""
        live = self._texts.get(state.job)
        if live is not None and _over(state, live.stage):
            del self._texts[state.job]


def _over(state: JobState, stage: str) -> bool:
    return state.ended or any(
        shown.stage == stage and shown.status != "started" for shown in state.visible_events
    )
