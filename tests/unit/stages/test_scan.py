"""The scan as a whole, stage after stage, on the bundled photo and on labels given by hand."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from eco2.call import Answer, Call, Reply, Usage
from eco2.pipeline import JSON, Form, Label, Outputs, Upload
from eco2.stages import scan
from eco2.stages.request import ScanInput
from eco2.stages.rule import apply_rules
from eco2.stages.taxonomy import Middle
from eco2.stages.vision import Sight, settle
from tests.unit.stages.test_request import CUP


@dataclass
class Desk:
    """A context whose model is a classifier that always sees `labels`."""

    input: ScanInput
    labels: tuple[Label, ...]
    outputs: Outputs = field(default_factory=Outputs)
    job_id: str = "job"
    deadline: float = 180.0
    resources: object = None
    calls: list[str] = field(default_factory=list)
    shown: str = ""

    async def call(self, call: Call[Answer]) -> Reply[Answer]:
        assert call.fallback is not None
        self.calls.append(call.kind)
        return Reply(call.fallback(self.labels if call.image else ()), "eyes", Usage())

    def emit(self, text: str) -> None:
        self.shown += text

    async def step(self, name: str, work: Callable[[str], Awaitable[JSON]]) -> JSON:
        raise AssertionError("the scan has no steps")

    async def map(self, items: object, fn: object, *, limit: int = 0) -> Any:
        raise AssertionError("the scan has no branches")


async def run(*labels: Label, question: str = "이거 어떻게 버려요?") -> tuple[Desk, JSON]:
    desk = Desk(ScanInput(image_url="data:x", user_input=question), labels)
    for stage in scan.stages:
        output = await stage.run(desk)
        assert type(output) is stage.output
        desk.outputs.add(_through_the_journal(output))
    return desk, scan.result_json(desk.outputs)


def _through_the_journal(output: BaseModel) -> BaseModel:
    return type(output).model_validate_json(json.dumps(output.model_dump(mode="json")))


def test_the_stages_are_named_as_clients_know_them() -> None:
    assert [stage.name for stage in scan.stages] == ["vision", "rule", "answer", "reward"]


async def test_a_recyclable_wins_its_character() -> None:
    desk, result = await run(Label("water bottle", 0.8))
    assert desk.calls == ["vision", "answer"]
    assert result["reward"] == {
        "name": "페티",
        "dialog": "투명하게 모아 주니 옷으로도 변신할 수 있어요!",
        "match_reason": "무색페트병>생수병",
        "type": "무색페트병",
    }


async def test_the_result_has_the_shape_that_clients_know() -> None:
    _, result = await run(Label("coffee mug", 0.8))
    inner = result["pipeline_result"]
    assert isinstance(inner, dict)
    assert inner["classification_result"] == {
        "classification": {
            "major_category": "불연성종량제폐기물",
            "middle_category": "불연성종량제폐기물",
            "minor_category": "도자기컵",
        },
        "situation_tags": [],
        "meta": {"user_input": "이거 어떻게 버려요?", "model": "eyes"},
    }
    assert (inner["disposal_rules"]["key"], inner["disposal_rules"]["category"]) == (
        "incombustible",
        "불연성종량제폐기물",
    )
    final = inner["final_answer"]
    assert list(final["disposal_steps"]) == ["단계1", "단계2", "단계3"]
    assert final["insufficiencies"] == []
    assert "도자기컵으로 보이" in final["user_answer"]
    assert result["reward"] is None
    json.dumps(result)


async def test_what_is_not_recognised_costs_one_call_and_gets_an_honest_reply() -> None:
    desk, result = await run(Label("tabby cat", 0.9))
    inner = result["pipeline_result"]
    assert isinstance(inner, dict)
    assert desk.calls == ["vision"]
    assert inner["disposal_rules"] is None
    assert inner["classification_result"]["classification"] == {
        "major_category": "미분류",
        "middle_category": "미분류",
        "minor_category": "무엇인지 알 수 없는 물건",
    }
    assert inner["final_answer"]["disposal_steps"] == {"단계1": desk.shown}
    assert inner["final_answer"]["user_answer"] == desk.shown
    assert "확실히 알 수 없어서" in desk.shown
    assert result["reward"] is None


async def test_an_english_question_is_answered_in_english() -> None:
    _, result = await run(Label("coffee mug", 0.8), question="Where does this go?")
    inner = result["pipeline_result"]
    assert isinstance(inner, dict)
    assert inner["final_answer"]["user_answer"].startswith("This looks like a ceramic cup")
    assert list(inner["final_answer"]["disposal_steps"]) == ["Step 1", "Step 2", "Step 3"]


async def test_the_name_of_a_class_chooses_no_rules() -> None:
    """의류및원단 contains the name of an item, 원단 (fabric)."""
    desk = Desk(ScanInput(image_url="data:x"), ())
    outputs = [
        settle(Sight(middle_category=Middle.CLOTHING, minor_category=None, situation_tags=[]), "m", "?")
    ]
    desk.outputs.add(outputs[0])
    rules = await scan.stages[1].run(desk)
    assert rules == apply_rules(Middle.CLOTHING, None, [], "ko")
    desk.outputs.add(rules)
    reward = await scan.stages[3].run(desk)
    assert reward.model_dump()["won"]["match_reason"] == "의류및원단"


def test_a_job_that_did_not_complete_has_nulls() -> None:
    assert scan.result_json(None) == {"pipeline_result": None, "reward": None}


async def test_the_pipeline_reads_its_own_requests() -> None:
    assert scan.parse is not None
    request = await scan.parse(Form({}, {"image": Upload("cup.jpg", "image/jpeg", CUP)}))
    assert scan.input.model_validate(request.model_dump(mode="json")) == request
