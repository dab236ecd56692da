"""A fake OpenAI provider for tests and benchmarks: exact rate limits, repeatable latencies, faults on demand.

Settings are in `config`, the server is `server.serve`. Its answers do not depend on photo or question: never
offer it to users as a model.
"""
