"""Finds the orders of accepted jobs, which are stored beside their queue for as long as jobs may live.

So a job whose order was lost can be ordered again, with the very same bytes, whatever becomes of the queue.
"""

import asyncio

from eco2.job import id_time, order_head
from eco2.ports import FromTime, OrderStore

SEEK_BEFORE = 5.0
"""Seconds before the id's own time at which a search starts: clocks of gateways differ a little."""
GIVE_UP_AFTER = 10.0
"""Seconds of the orders' own time after the id's by which the order must have come."""
SEARCH_TIMEOUT = 5.0
"""Seconds for one search; the store does not say where it ends."""


async def find_order(store: OrderStore, job_id: str) -> bytes | None:
    """Finds the order of a job; None if the store does not have it (any more). Raises `BrokerUnavailable`."""
    born = id_time(job_id)
    if born is None:
        return None
    try:
        start = FromTime(born - SEEK_BEFORE)
        async with asyncio.timeout(SEARCH_TIMEOUT), store.read_orders(start) as records:
            async for record in records:
                head = order_head(record.body)
                if head is not None and head.id == job_id:
                    return record.body
                if head is not None and head.accepted > born + GIVE_UP_AFTER:
                    return None
    except TimeoutError:
        return None
    return None
