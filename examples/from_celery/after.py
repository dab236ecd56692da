"""After: the same app as a pipeline. `tests/engine/test_from_celery.py` tests it without a broker.

ECO2_PIPELINES=examples.from_celery.after:reviews eco2 serve
"""

from pydantic import BaseModel, Field

from eco2.pipeline import JSON, Call, Context, Outputs, Pipeline, Retry, Stage
from examples.from_celery.prompts import RATE, SUMMARISE, Rating, complaints, mean


class Reviews(BaseModel):
    """The input: what `submit` took."""

    product: str
    reviews: list[str] = Field(min_length=1, max_length=500)


class Ratings(BaseModel):
    """The output of the group."""

    ratings: list[Rating]


class Summary(BaseModel):
    """The output of the chord's body."""

    text: str


async def rate(context: Context[Reviews]) -> Ratings:
    async def one(review: str) -> Rating:
        call = Call("rate", RATE, review, Rating, max_tokens=100, user_text=review)
        return (await context.call(call)).value

    return Ratings(ratings=await context.map(context.input.reviews, one))


async def summarise(context: Context[Reviews]) -> Summary:
    text = complaints(context.input.product, context.outputs.get(Ratings).ratings)
    reply = await context.call(Call("summarise", SUMMARISE, text, str, max_tokens=200, stream=True))
    return Summary(text=reply.value)


def result(outputs: Outputs | None) -> JSON:
    if outputs is None:
        return {"stars": None, "summary": None}
    return {"stars": mean(outputs.get(Ratings).ratings), "summary": outputs.get(Summary).text}


reviews: Pipeline[Reviews] = Pipeline(
    name="reviews",
    input=Reviews,
    stages=(
        Stage("rate", rate, Ratings, retry=Retry(attempts=6)),
        Stage("summarise", summarise, Summary, retry=Retry(attempts=6)),
    ),
    result=result,
    timeout=600.0,
)
