"""The one place where a delivery is settled: first the journal's last word, then the broker is told."""

from eco2.consumers.outcome import Dead, Ended, Finished, Outcome, Released
from eco2.consumers.progress import done
from eco2.consumers.run import Run
from eco2.errors import DeliveryLost
from eco2.event import Released as ReleasedEvent
from eco2.log import get_logger
from eco2.ports import Clock, Delivery

log = get_logger(__name__)


async def conclude(run: Run, outcome: Outcome, clock: Clock) -> None:
    """Writes the run's last event and returns once everything that the run wrote is confirmed."""
    now = clock()
    match outcome:
        case Finished():
            run.write(done(run.pipeline, run.job.id, run.id if run.opened else None, outcome, now))
        case Released(reason) if run.opened:
            run.write(ReleasedEvent(ts=now, job=run.job.id, run=run.id, reason=reason))
    await run.confirmed()


async def settle(delivery: Delivery, outcome: Outcome) -> None:
    """Tells the broker. A lost delivery comes again; whoever gets it finds the journal's word and acks."""
    try:
        match outcome:
            case Finished() | Ended():
                await delivery.ack()
            case Released():
                await delivery.requeue()
            case Dead():
                await delivery.reject()
    except DeliveryLost as error:
        log.info("delivery lost before it was settled; it comes again", why=str(error))
