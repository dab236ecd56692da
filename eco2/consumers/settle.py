"""The one place where a delivery is settled: what must be in the journal first, then the broker is told."""

from eco2.consumers.outcome import Dead, Finished, Outcome, Released, Void
from eco2.consumers.progress import done
from eco2.consumers.run import Run
from eco2.errors import DeliveryLost
from eco2.event import Released as ReleasedEvent
from eco2.log import get_logger
from eco2.ports import Clock

log = get_logger(__name__)


async def settle(run: Run, outcome: Outcome, clock: Clock) -> None:
    """Writes the run's last event, waits for its confirm, then settles the delivery.

    A delivery that is lost by then comes again; whoever gets it finds the journal's word and acks.
    """
    now = clock()
    match outcome:
        case Finished():
            run.write(done(run.pipeline, run.job.id, run.id if run.opened else None, outcome, now))
        case Released(reason) if run.opened:
            run.write(ReleasedEvent(ts=now, job=run.job.id, run=run.id, reason=reason))
    await run.confirmed()
    try:
        match outcome:
            case Finished() | Void():
                await run.delivery.ack()
            case Released():
                await run.delivery.requeue()
            case Dead():
                await run.delivery.reject()
    except DeliveryLost as error:
        log.info("delivery lost before it was settled; it comes again", why=str(error))
