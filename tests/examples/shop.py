"""An example pipeline with resources: one connection to a store, which all jobs of a worker share."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

from pydantic import BaseModel

from eco2.pipeline import JSON, Context, Outputs, PermanentError, Pipeline, Stage


class Question(BaseModel):
    """The input."""

    article: str


class Price(BaseModel):
    """The only stage's output."""

    cents: int


@asynccontextmanager
async def store() -> AsyncIterator[sqlite3.Connection]:
    """Opens the store at the worker's start, and closes it after its last job."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE prices (article TEXT PRIMARY KEY, cents INTEGER)")
        connection.execute("INSERT INTO prices VALUES ('bottle', 25)")
        yield connection


async def price(context: Context[Question, sqlite3.Connection]) -> Price:
    query, article = "SELECT cents FROM prices WHERE article = ?", context.input.article
    row = context.resources.execute(query, (article,)).fetchone()
    if row is None:
        raise PermanentError(f"there is no price of {article}", "NO_PRICE")
    return Price(cents=row[0])


def result(outputs: Outputs | None) -> JSON:
    """Returns the result for clients; `None` stands for a job that did not complete."""
    return {"cents": outputs.get(Price).cents if outputs else None}


shop: Pipeline[Question, sqlite3.Connection] = Pipeline(
    name="shop",
    input=Question,
    stages=(Stage("price", price, Price),),
    result=result,
    resources=store,
)
