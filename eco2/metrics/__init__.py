"""What a process counts, for Prometheus. The only home of `prometheus_client`.

`series.py` is the table of all series: docs/metrics.md is written from it, and nothing is shown that is not
in it. `metrics.py` counts what happens, `scraped.py` asks at each scrape, `loop.py` watches the event loop.
"""

from eco2.metrics.metrics import GrantOutcome, Metrics, Opening

__all__ = ["GrantOutcome", "Metrics", "Opening"]
