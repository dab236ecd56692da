"""Measures the queues alone: how many empty jobs per second each processes.

docs/benchmarks.md names the contenders, the conditions and the results. From the bottom up: `marks` and
`work` (the work of every handler), `peers` and `engine` (the contenders, in separate processes), `contender`
(values), `filling`, `crew`, `trial` (one measurement), `rounds`, `verdict` (arithmetic), `plot`, `report`,
`quick`.
"""
