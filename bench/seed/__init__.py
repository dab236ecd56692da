"""The seed's load test, on the seed's system and on eco2: docs/benchmarks.md.

Real processes on a real RabbitMQ, a provider with the limits and latencies of the seed, in real time. From
the bottom up: `scenario` (values), `processes` (/proc), `baseline` (Celery), `systems` (the installations),
`load` (Locust's users), `run` (one scenario), `seen` (its raw data in a file), `figures` and `verdict`
(arithmetic), `plot`, `report`.
"""
