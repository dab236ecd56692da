"""The texts of errors."""

import pytest
from pydantic import BaseModel, ValidationError

from eco2.gateway.problem import describe


def test_a_misfit_is_described_by_field_without_its_value() -> None:
    class Inner(BaseModel):
        size: int

    class Outer(BaseModel):
        items: list[Inner]

    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"items": [{"size": "secret"}] * 9})
    text = describe(caught.value)
    assert text.startswith("items.0.size: Input should be a valid integer")
    assert text.endswith("; and 4 more")
    assert "secret" not in text
