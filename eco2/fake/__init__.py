"""A fake OpenAI provider for tests and benchmarks: honest quota windows, paired latencies, faults on demand.

Settings are in `config`, the server is `server.serve`. Nothing here sees a photo or writes an answer of its
own: never offer it to people as a model.
"""
