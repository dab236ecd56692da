"""The core alone: how many jobs a second a task queue gets through when the jobs do nothing.

Who is compared, how fairly, and what came out: docs/benchmarks.md. From the bottom up: `marks` and `work`
(what every handler does), `peers` and `engine` (the contenders, in processes of their own), `contender`
(values), `filling`, `crew`, `trial` (one measurement), `rounds`, `verdict` (arithmetic), `plot`, `report`,
`quick`.
"""
