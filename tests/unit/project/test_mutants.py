"""The mutants of `make mutants` still apply: their patches show lines that the tree has."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PATCHES = sorted((ROOT / "tests/mutants").glob("*.patch"))


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_a_mutant_changes_lines_that_the_tree_has(patch: Path) -> None:
    parts = re.split(r"^--- a/(\S+)\n\+\+\+ .*\n", patch.read_text(), flags=re.MULTILINE)[1:]
    assert parts
    for name, hunks in zip(parts[::2], parts[1::2], strict=True):
        source = (ROOT / name).read_text()
        for hunk in re.split(r"^@@ .*\n", hunks, flags=re.MULTILINE)[1:]:
            kept = [line[1:] for line in hunk.splitlines(keepends=True) if line[:1] in " -\n"]
            assert source.count("".join(kept)) >= 1
