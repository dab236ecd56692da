"""Finds the one object of a schema in a model's text: in a fence, between words, after a mark. Pure.

An object is taken only where exactly one in the text fits the schema: nothing is guessed.
"""

import json
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

from pydantic import BaseModel, ValidationError

Schema = TypeVar("Schema", bound=BaseModel)

MAX_SEARCHED = 20_000
"""Characters; a longer answer than any `max_tokens` allows is not searched."""
MAX_TRIED = 200
"""Braces in one text at which an object may begin; each costs a pass over the rest."""

_decoder = json.JSONDecoder()


def read(schema: type[Schema], text: str) -> Schema:
    """Returns the object. Raises the `ValidationError` of the whole text if there is none, or several."""
    bare = unicodedata.normalize("NFC", text.strip("\ufeff \t\r\n"))
    if bare.startswith('"'):
        with suppress(ValueError):
            bare = str(json.loads(bare))  # encoded twice
    try:
        return schema.model_validate_json(bare)
    except ValidationError:
        objects = {value.model_dump_json(): value for value in objects_in(schema, bare)}
        if len(objects) != 1:
            raise
        return next(iter(objects.values()))


def objects_in(schema: type[Schema], text: str) -> Iterator[Schema]:
    """Yields the objects in the text that fit the schema, but none inside another one that fits."""
    text = text[:MAX_SEARCHED]
    at = text.find("{")
    for _ in range(MAX_TRIED):
        if at < 0:
            return
        after = at + 1
        try:
            _, end = _decoder.raw_decode(text, at)
            yield schema.model_validate_json(text[at:end])
            after = end
        except (ValueError, RecursionError):  # no JSON, or (`ValidationError`) another object
            pass
        at = text.find("{", after)
