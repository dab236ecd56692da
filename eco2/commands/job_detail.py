"""Gathers the detail of one job from the journal and from the worker that has it now."""

from eco2.commands.session import OperatorSession
from eco2.commands.spinner import spinner
from eco2.consumers.liveness import query_holder
from eco2.journal.state import JobState
from eco2.operator.dead_jobs import successor
from eco2.operator.job_history import holder, read_events, runs, stages
from eco2.operator.jobs import JobDetail

HOLDER_TIMEOUT = 2.0
"""Seconds in which a worker that has the job replies."""


async def job_detail(session: OperatorSession, state: JobState) -> JobDetail:
    """Returns the job's detail. Raises `BrokerUnavailable`."""
    with spinner(f"the events of job {state.job}"):
        events = await read_events(session.broker, state, session.journal.view.offset)
    history = runs(state, events)
    answer = None
    if not state.ended:
        with spinner("the job's holder to answer"):
            answer = await query_holder(session.broker, state.job, HOLDER_TIMEOUT)
    replay = successor(state.job, session.journal.view.recent())
    return JobDetail(
        state, history, stages(state), holder(state, history, answer), replay.job if replay else None
    )
