"""Gathers all that is known of one job: from the journal, and from whoever has it now."""

from eco2.commands.session import Session
from eco2.commands.waiting import waiting
from eco2.consumers.liveness import query_holder
from eco2.journal.state import JobState
from eco2.operator.dead import successor
from eco2.operator.jobs import Sheet
from eco2.operator.trace import events, holder, runs, stages

ANSWER = 2.0
"""Seconds in which a worker that has the job answers."""


async def sheet(here: Session, state: JobState) -> Sheet:
    """Raises `BrokerUnavailable`."""
    with waiting(f"the events of job {state.job}"):
        told = await events(here.broker, state, here.journal.view.offset)
    history = runs(state, told)
    answer = None
    if not state.ended:
        with waiting("the job's holder to answer"):
            answer = await query_holder(here.broker, state.job, ANSWER)
    later = successor(state.job, here.journal.view)
    return Sheet(state, history, stages(state), holder(state, history, answer), later.job if later else None)
