"""What is looked at in Prometheus, and the run that proves it: `make observe`.

`dashboard.py` says which panels there are, and writes helm/eco2/files/dashboard.json. The alerts are
helm/eco2/files/alerts.yaml, by hand. The run scrapes a loaded installation and asks every one of these
queries.
"""
