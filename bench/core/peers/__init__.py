"""The task queues that eco2 is compared with, each as its own documentation has it, late acks and all.

`python -m bench.core.peers.NAME SECONDS …` publishes one job of each length with that library's own client.
"""
