"""The wheel, which the image installs, holds every file of the package: also the data that it reads."""

from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.build import build_wheel

ROOT = Path(__file__).parents[3]


def test_the_wheel_holds_every_file_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with ZipFile(tmp_path / build_wheel(str(tmp_path))) as wheel:
        held = {name for name in wheel.namelist() if name.startswith("eco2/")}
    files = {path.relative_to(ROOT) for path in (ROOT / "eco2").rglob("*") if path.is_file()}
    assert held == {str(path) for path in files if "__pycache__" not in path.parts}
    assert {"eco2/metrics/series.toml", "eco2/tokens/syllables.txt"} <= held
