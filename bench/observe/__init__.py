"""The dashboard and the run that tests it together with the alerts: `make observe`.

`dashboard.py` defines the panels, and writes helm/eco2/files/dashboard.json. The alerts in
helm/eco2/files/alerts.yaml are written by hand. The run scrapes a loaded installation and sends every one of
these queries.
"""
