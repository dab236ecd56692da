"""The system that the seed measured: the scan as a chain of four Celery tasks, as it is usually written.

It is to be as good as Celery allows: one HTTP client per process, one layer of retries, late acks, one task
per slot in hand, publisher confirms, no result backend, no gossip, no built-in events that nobody reads. Runs
in the environment of `scripts/setup-bench seed`. `model` (what is asked), `app` (the tasks), `sse` (HTTP).
"""
