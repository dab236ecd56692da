"""The engine knows jobs, stages, calls and events; nothing in it depends on the scan."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCAN = ("eco2/stages/", "eco2/demo.py", "eco2/fake/")
"""The scan, its command, and the provider that tests replace OpenAI by."""
NAMES_THE_DEFAULT = ("eco2/cli.py", "eco2/settings.py", "eco2/sizetable.py")
"""The scan is the default pipeline, and these say what a user gets by default."""
DECODES = ("eco2/llm/picture.py", "eco2/picturefile.py", "eco2/thumbnail.py")
"""Pictures of any kind; progressive JPEGs consist of scans."""
ENGINE = [
    str(path.relative_to(ROOT))
    for path in sorted((ROOT / "eco2").rglob("*.py"))
    if not str(path.relative_to(ROOT)).startswith((*SCAN, *NAMES_THE_DEFAULT))
]
OF_THE_SCAN = re.compile(
    r"\b(wastes?|(?<![.:])scans?|photos?|dispos(e|al)|recycl\w+|vision|IMAGE_[A-Z]\w*)\b"
)
OTHERS_WORDS = {
    "eco2/llm/provider_errors.py": {"vision"},  # of providers' messages
    "eco2/tokens/images.py": {"vision"},  # the title of OpenAI's guide
}


@pytest.mark.parametrize("path", ENGINE)
def test_no_module_of_the_engine_speaks_of_the_scan(path: str) -> None:
    found = {match[0] for match in OF_THE_SCAN.finditer((ROOT / path).read_text())}
    if path in DECODES:
        found = {word for word in found if not word.startswith(("IMAGE_", "scan"))}
    assert found - OTHERS_WORDS.get(path, set()) == set()


@pytest.mark.parametrize("path", ENGINE)
def test_no_module_of_the_engine_imports_the_scan(path: str) -> None:
    imported = {
        name
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert not {name for name in imported if name.startswith("eco2.stages")}
