"""The system that the seed measured: the scan as a chain of four Celery tasks, as it is usually written.

It is as good as Celery allows: one HTTP client per process, one layer of retries, late acks, one task per
slot, publisher confirms, no result backend, no gossip, no unused built-in events. Runs in the environment of
`scripts/setup-bench seed`. `model` (the requests), `app` (the tasks), `sse` (HTTP).
"""
