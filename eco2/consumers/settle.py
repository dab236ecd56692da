"""The one place where a delivery is settled: first the journal's last word, then the broker is told."""

from eco2.consumers.outcome import AlreadyEnded, DeadLettered, Finished, Outcome, Released, Retry
from eco2.consumers.progress import done_event, truncated
from eco2.consumers.run import Run
from eco2.errors import DeliveryLost
from eco2.event import Released as ReleasedEvent
from eco2.job import encode_order
from eco2.log import get_logger
from eco2.ports import Clock, Delivery, WorkQueue, delay_queue
from eco2.retry import PUBLISH

log = get_logger(__name__)


async def conclude(run: Run, outcome: Outcome, clock: Clock) -> None:
    """Writes the run's last event and returns once everything that the run wrote is confirmed."""
    now = clock()
    match outcome:
        case Finished():
            run.write(done_event(run.pipeline, run.job.id, run.id if run.opened else None, outcome, now))
        case Released(reason) | Retry(reason) if run.opened:
            retry = isinstance(outcome, Retry)
            words = truncated(reason)
            run.write(ReleasedEvent(ts=now, job=run.job.id, run=run.id, reason=words, retry=retry))
    await run.confirmed()


async def settle(run: Run, outcome: Outcome, queue: WorkQueue) -> None:
    """Tells the broker what becomes of the delivery. An order that waits is out before this one goes."""
    if isinstance(outcome, Retry):
        await _put_off(run, outcome.delay, queue)
    await close(run.delivery, outcome)


async def close(delivery: Delivery, outcome: Outcome) -> None:
    """Tells the broker. A lost delivery comes again; whoever gets it finds the journal's word and acks."""
    try:
        match outcome:
            case Finished(dead=True) | AlreadyEnded(dead=True) | DeadLettered():
                await delivery.reject()
            case Finished() | AlreadyEnded() | Retry():
                await delivery.ack()
            case Released():
                await delivery.requeue()
    except DeliveryLost as error:
        log.info("delivery lost before it was settled; it comes again", why=str(error))


async def _put_off(run: Run, delay: int, queue: WorkQueue) -> None:
    """The order into the queue of that delay, for as long as it takes; the delivery is held meanwhile."""
    await PUBLISH.retry(
        lambda: queue.publish(delay_queue(run.pipeline.name, delay), encode_order(run.job), run.job.id)
    )
