"""Runs eco2 as two contenders: consumption alone (deliver, handle, settle), and the whole engine."""
