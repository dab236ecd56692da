"""What the chart promises about the program: names, numbers, versions. `make chart` does the rest."""

import json
import math
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel

from eco2 import __version__
from eco2.environment import markdown
from eco2.settings import BudgetSettings, ProviderSettings, Settings, size_for_scans
from eco2.sizing import BETWEEN, WORKER_CALLS
from eco2.wiring import MARGIN

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm/eco2"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
TIERS = sorted(CHART.glob("values-tier*.yaml"))
OWN = {
    "ECO2_HOST",
    "ECO2_PORT",
    "ECO2_PROBES_HOST",
    "ECO2_PROBES_PORT",
    "ECO2_WORKER_HOST",
    "ECO2_WORKER_PORT",
}
"""Settings that are the chart's to make."""

Tree = dict[str, Any]


def read(path: Path) -> Tree:
    tree: Tree = yaml.safe_load(path.read_text())
    return tree


def variables() -> set[str]:
    """Of the settings without further providers."""
    return set(re.findall(r"^\| `((?:ECO2|OPENAI)_\w+)`", markdown().split("## Further")[0], re.MULTILINE))


def merged(base: Tree, over: Tree) -> Tree:
    """As helm does it: maps are merged, everything else is replaced."""
    return base | {
        name: merged(base[name], value)
        if isinstance(value, dict) and isinstance(base.get(name), dict)
        else value
        for name, value in over.items()
    }


def test_the_schema_is_one() -> None:
    jsonschema_rs.meta.validate(SCHEMA)


def test_every_object_of_the_schema_says_what_it_may_hold() -> None:
    def objects(node: Any, path: str) -> list[str]:
        children = (
            node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        )
        found = [open_ for name, child in children for open_ in objects(child, f"{path}/{name}")]
        is_open = (
            isinstance(node, dict) and node.get("type") == "object" and "additionalProperties" not in node
        )
        return [path, *found] if is_open else found

    assert objects(SCHEMA, "") == ["/properties/global"]


@pytest.mark.parametrize("path", [CHART / "values.yaml", *TIERS], ids=lambda path: path.name)
def test_the_values_are_as_the_schema_wants_them(path: Path) -> None:
    values = merged(read(CHART / "values.yaml"), read(path))
    assert [error.message for error in jsonschema_rs.validator_for(SCHEMA).iter_errors(values)] == []


@pytest.mark.parametrize("typo", ["replica", "Replicas"])
def test_a_typo_is_refused(typo: str) -> None:
    values = merged(read(CHART / "values.yaml"), {"worker": {typo: 3}})
    assert list(jsonschema_rs.validator_for(SCHEMA).iter_errors(values))


def test_every_setting_can_be_set_and_no_other() -> None:
    settings = set(SCHEMA["properties"]["settings"]["properties"])
    secrets = set(SCHEMA["properties"]["secrets"]["properties"]["values"]["properties"])
    assert settings & secrets == set()
    assert settings | secrets == variables() - OWN - {"ECO2_PROVIDERS", "ECO2_BUDGETS"}


def test_numbers_have_the_bounds_of_the_settings() -> None:
    """What the program would refuse at its start, `helm install` refuses."""
    schema, own = SCHEMA["properties"]["settings"], variables() - OWN
    expected = {f"ECO2_{name.upper()}": found for name, found in bounds(Settings).items()}
    named = {name: found for name, found in expected.items() if name in own}
    assert named
    assert named == {name: bounded(schema["properties"][name]) for name in named}
    patterns = schema["patternProperties"]
    for of, model in (("PROVIDERS", ProviderSettings), ("BUDGETS", BudgetSettings)):
        for name, found in bounds(model).items():
            assert bounded(patterns[f"^ECO2_{of}__[A-Z][A-Z0-9]*__{name.upper()}$"]) == found


BOUNDS = {Ge: "minimum", Gt: "exclusiveMinimum", Le: "maximum", Lt: "exclusiveMaximum"}


def bounds(model: type[BaseModel]) -> dict[str, dict[str, float]]:
    """The bounds of each of the model's numbers, in the words of a schema."""
    found = {
        name: {
            BOUNDS[type(bound)]: float(getattr(bound, type(bound).__name__.lower()))
            for bound in field.metadata
            if type(bound) in BOUNDS
        }
        for name, field in model.model_fields.items()
    }
    return {name: each for name, each in found.items() if each}


def bounded(schema: Tree) -> dict[str, float]:
    """The bounds that a schema sets."""
    return {name: value for name, value in schema.items() if name in BOUNDS.values()}


def test_the_drain_has_the_time_that_it_needs() -> None:
    default = Settings.model_fields["drain_grace"].default
    assert read(CHART / "values.yaml")["settings"]["ECO2_DRAIN_GRACE"] == default
    template = (CHART / "templates/worker.yaml").read_text()
    (added,) = re.findall(r"addf \.Values\.settings\.ECO2_DRAIN_GRACE (\d+)", template)
    assert int(added) > MARGIN


@pytest.mark.parametrize("path", TIERS, ids=lambda path: path.name)
def test_a_tier_is_sized_as_eco2_size_says(path: Path) -> None:
    values = merged(read(CHART / "values.yaml"), read(path))
    limits = values["settings"]
    sized = size_for_scans(limits["ECO2_RPM"], limits["ECO2_TPM"])
    assert values["worker"]["replicas"] == sized.replicas
    worker, gateway = values["worker"]["resources"], values["gateway"]["resources"]
    for resources, needed in ((worker, sized.worker_mb), (gateway, sized.gateway_mb)):
        assert megabytes(resources["requests"]["memory"]) >= needed
        assert megabytes(resources["limits"]["memory"]) >= 2 * needed
    assert megabytes(gateway["limits"]["memory"]) >= 2 * sized.gateway_mb + 268  # for pictures
    assert float(worker["requests"]["cpu"].removesuffix("m")) / 1000 >= sized.cores / sized.needed
    scaler = values["keda"]
    assert scaler["jobsPerWorker"] == math.floor(WORKER_CALLS * BETWEEN)
    if scaler["enabled"]:
        assert scaler["maxReplicas"] == sized.replicas
        assert scaler["minReplicas"] >= 2
    else:
        assert sized.needed == 1  # nothing to scale


def megabytes(quantity: str) -> float:
    return float(quantity.removesuffix("Mi")) * 2**20 / 1e6


def test_the_chart_is_of_this_version() -> None:
    chart = read(CHART / "Chart.yaml")
    assert chart["appVersion"] == __version__
    assert chart["version"] == __version__.replace(".dev", "-dev.")  # Helm takes SemVer, Python does not
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()
    images = re.findall(r"registry\.example/eco2:(\S+)", (ROOT / "docs/operations.md").read_text())
    assert set(images) == {__version__}  # the chart's default tag
    assert f"## {__version__.partition('.dev')[0]} (" in (ROOT / "CHANGELOG.md").read_text()


def test_the_backlog_is_never_added_up_over_gateways() -> None:
    template = (CHART / "templates/scaler.yaml").read_text()
    queries = re.findall(r"query: (.+)", template)
    assert len(queries) == 2
    (backlog,) = [query for query in queries if "eco2_jobs_backlog" in query]
    assert "max by (pipeline) (eco2_jobs_backlog{" in backlog


def test_compose_gives_as_much_as_the_chart() -> None:
    services = read(ROOT / "compose.yaml")["services"]
    assert services["worker"]["stop_grace_period"] == "90s"
    environment = services["worker"]["environment"]
    assert float(environment["ECO2_DRAIN_GRACE"]) + 20 == 90
    assert set(environment) <= variables()
