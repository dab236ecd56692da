"""One budget for all replicas, measured where it counts: in the provider's own log of arrivals.

Real processes on a real RabbitMQ, real limits, nothing scaled in time. What is measured, how, and what came
out: docs/budget.md. From the bottom up: `case`, `windows`, `jobs` (values and arithmetic),
`fleet`, `load`, `incidents` (what runs), `run` (one case), `verdict`, `record`, `plot`, `report`.
"""
