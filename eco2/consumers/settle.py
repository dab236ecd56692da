"""Ends the handling of a delivery: records the outcome in the journal first, then settles with the broker."""

from msgspec.structs import replace

from eco2.consumers.outcome import AlreadyEnded, DeadLettered, Finished, Outcome, Released, Retry
from eco2.consumers.progress import build_result, done_event, truncated
from eco2.consumers.run import ActiveJob
from eco2.errors import BrokerUnavailable, DeliveryLost, JobForgotten, TooLarge
from eco2.event import Released as ReleasedEvent
from eco2.job import encode_order
from eco2.journal.view import View
from eco2.log import get_logger
from eco2.ports import Clock, Delivery, WorkQueue, delay_queue
from eco2.retry import PUBLISH

log = get_logger(__name__)


async def record_outcome(job: ActiveJob, outcome: Outcome, clock: Clock) -> Outcome:
    """Writes the last event of the job's run; returns once everything that was written is confirmed.

    An end that is too large for the journal is replaced by a failure, which is returned.
    """
    try:
        await write_last_event(job, outcome, clock)
    except TooLarge as error:  # an end without outputs fits where one with them does not
        outcome = build_result(job.pipeline, job.id, error, {})
        await write_last_event(job, outcome, clock)
    return outcome


async def write_last_event(job: ActiveJob, outcome: Outcome, clock: Clock) -> None:
    """Writes how the job's run ends, if the journal has to know. Raises `TooLarge`."""
    run = None if job.run is None else job.run.id
    match outcome:
        case Finished():
            job.write(done_event(job.pipeline, job.id, run, outcome, clock()))
        case Released(reason) if run is not None:
            job.write(ReleasedEvent(ts=clock(), job=job.id, run=run, reason=truncated(reason)))
        case Retry(reason, delay, stage) if run is not None:
            put_off = ReleasedEvent(ts=clock(), job=job.id, run=run, reason=truncated(reason))
            job.write(replace(put_off, retry=True, stage=stage, delay=delay))
    await job.confirmed()


async def accepted_end(job: ActiveJob, end: Finished, view: View) -> Finished | AlreadyEnded | None:
    """Returns the recorded end, or that the job had ended in another way before.

    None if the end was void, since another run has the job, or has started it.
    """
    state, unstarted = view.get(job.id), end.code == "EXPIRED" and job.run is None
    try:
        while state is not None and not state.ended and (job.run is None or state.run == job.run.id):
            if unstarted and state.has_started:
                return None
            state = await view.change(job.id, state)
    except (JobForgotten, BrokerUnavailable):
        return end  # the journal has dropped it, or was replaced: no end stands against this one
    if state is None:
        return end
    if not state.ended:
        return None
    return end if (state.status, state.dead) == (end.status, end.dead) else AlreadyEnded(dead=state.dead)


async def schedule_retry(job: ActiveJob, delay: int, queue: WorkQueue) -> None:
    """Puts the order into the queue of that delay, however long it takes; the delivery is held meanwhile."""
    target = delay_queue(job.pipeline.name, delay, job.order.priority)
    order = encode_order(job.order)
    await PUBLISH.retry(lambda: queue.publish(target, order, job.id))


async def settle_delivery(delivery: Delivery, outcome: Outcome) -> None:
    """Acks, rejects or requeues. A lost delivery comes again, and its next worker finds the outcome."""
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
