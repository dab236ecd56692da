"""An order once more: for a job that waits for an order which is not there any more.

What it guarantees: harmless when the order was not lost. A worker that has the job keeps one of the two, one
that finds it held waits for its end, and a job that has ended is not run again.
"""

from eco2.errors import PermanentError
from eco2.journal.orders import Orders
from eco2.journal.state import JobState
from eco2.operator.replay import PATIENCE, Broker
from eco2.ports import retry_queue
from eco2.retry import PUBLISH


async def reissue(state: JobState, broker: Broker) -> None:
    """Returns once the order is in the queue of what goes first.

    Raises `PermanentError` for a job that has ended or whose order nobody has any more.
    """
    if state.ended:
        advice = "`eco2 dead replay` makes a new job of it" if state.dead else "the client may send it again"
        raise PermanentError(f"job {state.job} has ended as {state.status}; {advice}", "ENDED")
    if state.cut:
        raise PermanentError(f"the journal no longer says what job {state.job} is; it ends at its deadline")
    order = await Orders(broker).find(state.job)
    if order is None:
        raise PermanentError(
            f"the order store does not have the order of job {state.job} (it keeps them for an hour); "
            "the job ends at its deadline, and the client may send it again"
        )
    await PUBLISH.retry(lambda: broker.publish(retry_queue(state.pipeline), order, state.job), PATIENCE)
