"""Before: a Celery app that rates the reviews of a product side by side, then summarises them.

celery -A examples.from_celery.before worker -c 4
"""

import os
from functools import cache
from typing import Any

import openai
from celery import Celery, chord, group
from celery.result import AsyncResult

from examples.from_celery.prompts import MODEL, RATE, SUMMARISE, Rating, complaints, mean

TEMPORARY = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError)

app = Celery(
    "reviews",
    broker=os.environ.get("BROKER_URL", "amqp://"),
    backend=os.environ.get("RESULT_BACKEND", "redis://"),
)
app.conf.update(
    task_default_queue=os.environ.get("QUEUE", "reviews"),
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)
CALL: dict[str, Any] = {
    "autoretry_for": TEMPORARY,
    "retry_backoff": True,
    "max_retries": 5,
    "rate_limit": "500/m",  # of each worker process, so it must be divided by their number
    "time_limit": 60,
}


@cache
def client() -> openai.OpenAI:
    return openai.OpenAI(max_retries=0)  # the task's retries are enough


@app.task(**CALL)
def rate(review: str) -> dict[str, Any]:
    answer = client().chat.completions.parse(
        model=MODEL,
        messages=[{"role": "system", "content": RATE}, {"role": "user", "content": review}],
        response_format=Rating,
        max_completion_tokens=100,
    )
    rating = answer.choices[0].message.parsed
    if rating is None:
        raise ValueError("the model did not answer")
    return rating.model_dump()


@app.task(**CALL)
def summarise(rated: list[dict[str, Any]], product: str) -> dict[str, Any]:
    ratings = [Rating.model_validate(each) for each in rated]
    text = complaints(product, ratings)
    answer = client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "system", "content": SUMMARISE}, {"role": "user", "content": text}],
        max_completion_tokens=200,
    )
    return {"stars": mean(ratings), "summary": answer.choices[0].message.content}


def submit(product: str, reviews: list[str]) -> AsyncResult:
    return chord(group(rate.s(review) for review in reviews), summarise.s(product)).apply_async()


def cancel(result: AsyncResult) -> None:
    """Revokes the parts of a chord one by one; what a worker has begun is killed with its process."""
    for part in (*result.parent.results, result):
        part.revoke(terminate=True)
