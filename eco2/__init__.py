"""Eco²: an asyncio task queue for LLM pipelines on RabbitMQ."""

__version__ = "0.2.0.dev0"
