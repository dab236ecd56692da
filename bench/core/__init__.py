"""The core alone: how many jobs a second each task queue gets through when the jobs do nothing.

What is compared, how fairly, and what came out: docs/benchmarks.md. From the bottom up: `marks`, `work` (what
every handler does), `peers/` and `engine/` (the contenders, each in processes of its own), `contender` (values),
`sample`, `filling`, `crew`, `trial` (one measurement), `verdict`, `report`, `plot`.
"""
