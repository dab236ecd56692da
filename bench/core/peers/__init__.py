"""The task queues that eco2 is compared with, each set up as its own documentation describes, with late
acks.

`python -m bench.core.peers.NAME SECONDS …` publishes one job of each length with that library's own client.
"""
