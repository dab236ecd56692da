"""The gateway: HTTP in front of the journal. Accepts jobs, streams their events, answers with results."""
