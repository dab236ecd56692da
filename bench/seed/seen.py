"""Stores a scenario's raw data in a file: its figures can be computed again without an hour of running."""

import json
from dataclasses import asdict
from pathlib import Path

from bench.seed.run import Measured, Sample
from bench.seed.scenario import Scenario

FILE = "seen.json"


def write(measured: Measured, folder: Path) -> None:
    (folder / FILE).write_text(json.dumps(asdict(measured)), encoding="utf-8")


def read(folder: Path) -> Measured:
    """Reads the file that `write` wrote."""
    fields = json.loads((folder / FILE).read_text(encoding="utf-8"))
    scenario, samples = Scenario(**fields.pop("scenario")), fields.pop("samples")
    return Measured(scenario=scenario, samples=[Sample(**sample) for sample in samples], **fields)
