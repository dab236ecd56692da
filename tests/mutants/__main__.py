"""`make mutants`: applies each patch of this folder to a copy of the tree and expects a test to fail.

A patch says in its head which tests shall notice it (`Tests: …`). Without any patch all of these tests must
pass; a patch that no longer applies is a failure, too, since it then proves nothing.
"""

import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
COPIED = ("eco2", "tests", "docs", "pyproject.toml", "README.md")
MAX_CPU = 300
"""Seconds of CPU for the tests of one mutant, which then count as failed: it made one spin."""
TIMEOUT = 3600.0
"""Seconds in all, on a machine however busy; one that waits for ever fails by its own time-out."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`breaks`: what the patch does, in words. `tests`: arguments for pytest."""

    name: str
    patch: Path
    breaks: str
    tests: tuple[str, ...]

    @classmethod
    def read(cls, patch: Path) -> "Mutant":
        """Raises ValueError for a patch without a head."""
        head, _, _ = patch.read_text().partition("\n--- ")
        fields = dict(re.findall(r"^(Breaks|Tests): (.+)$", head, re.MULTILINE))
        if fields.keys() != {"Breaks", "Tests"}:
            raise ValueError(f"{patch.name}: begin it with the lines `Breaks: …` and `Tests: …`")
        return cls(patch.stem, patch, fields["Breaks"], tuple(fields["Tests"].split()))


def judge(mutant: Mutant, tree: Path) -> str | None:
    """None if the tests notice the mutant, else why it lives."""
    applied = subprocess.run(
        ["git", "apply", "--verbose", str(mutant.patch)],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if applied.returncode != 0:
        return f"the patch no longer applies; write it anew:\n{applied.stderr}"
    code, output = run_tests(tree, mutant.tests)
    match code:
        case 0:
            return f"survived: {' '.join(mutant.tests)} passes all the same"
        case 1:
            return None
    return f"pytest ended with {code}, which says nothing:\n{output}"


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Returns pytest's exit code (1: a test failed, or took too much CPU) and the end of its output."""
    plugins = ("-p", "no:cacheprovider", "-p", "tests.mutants.no_shrinking")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--timeout=900", *plugins, *tests]
    limited = ["prlimit", f"--cpu={MAX_CPU}:{MAX_CPU + 10}", *command]
    done = subprocess.run(limited, cwd=tree, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    code = 1 if done.returncode == -signal.SIGXCPU else done.returncode
    return code, done.stdout[-2000:]


def copy(folder: Path) -> Path:
    """A tree of its own for one mutant: what the tests need of ours, and a repository for `git apply`."""
    tree = folder / "tree"
    if tree.exists():
        shutil.rmtree(tree)
    tree.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, tree / name)
    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    return tree


def main() -> int:
    """The exit code: 0 if every mutant was noticed."""
    mutants = [Mutant.read(patch) for patch in sorted(FOLDER.glob("*.patch"))]
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    lived = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"{len(mutants)} mutants; first the tests without any", flush=True)
        code, output = run_tests(copy(folder), tests)
        if code != 0:
            print(f"the tests fail as they are:\n{output}")
            return 1
        for mutant in mutants:
            began = time.monotonic()
            why = judge(mutant, copy(folder))
            verdict = "killed" if why is None else "LIVES"
            print(f"{verdict:<7}{mutant.name:<22}{mutant.breaks} ({time.monotonic() - began:.0f} s)")
            if why is not None:
                lived += 1
                print(f"       {why}")
            sys.stdout.flush()
    print(f"{len(mutants) - lived} of {len(mutants)} killed")
    return 1 if lived else 0


if __name__ == "__main__":
    sys.exit(main())
