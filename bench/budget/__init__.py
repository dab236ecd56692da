"""Measures one budget for all replicas, in the provider's own log of arrivals.

Real processes on a real RabbitMQ, real limits, no scaled time. docs/budget.md describes the method and the
results. From the bottom up: `case`, `windows`, `jobs` (values and arithmetic), `fleet`, `load`, `incidents`
(the run), `run` (one case), `verdict`, `record`, `plot`, `report`.
"""
