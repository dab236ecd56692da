"""One budget for all replicas: a leader grants, whoever calls asks. The arithmetic is in `eco2/pacer.py`."""
