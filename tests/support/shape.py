"""Measures the shape of `eco2/`: `python -m tests.support.shape [FOLDER]` prints it by package.

Lines are those with code: no comments, docstrings or blank lines. A function is private if its name begins
with one underscore. A docstring is unclear if its first sentence is long, or begins with Who or What.
"""

import ast
import io
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_WORDS = 20
MAX_LINES = 50
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function


@dataclass(slots=True)
class Shape:
    """What was counted in some files. `long`: functions over `MAX_LINES`; `unclear`: places of docstrings."""

    files: int = 0
    lines: int = 0
    functions: int = 0
    private: int = 0
    docstrings: int = 0
    long: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)

    @property
    def private_share(self) -> float:
        return self.private / self.functions if self.functions else 0.0

    def add(self, path: Path) -> None:
        """Counts the file."""
        text = path.read_text()
        tree = ast.parse(text)
        where = path.relative_to(ROOT)
        documented = [node for node in ast.walk(tree) if isinstance(node, Documented)]
        docstrings = {line for node in documented for line in _docstring_lines(node)}
        self.files += 1
        self.lines += len(_code_lines(text) - docstrings)
        for node in documented:
            if isinstance(node, Function):
                self.functions += 1
                self.private += node.name.startswith("_") and not node.name.endswith("__")
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_LINES:
                    self.long.append(f"{where}:{node.lineno} {node.name}: {length} lines")
            if (words := ast.get_docstring(node)) is not None:
                self.docstrings += 1
                if reason := fault(words):
                    line = node.body[0].lineno
                    self.unclear.append(f"{where}:{line} {reason}: {first_sentence(words)}")


def first_sentence(text: str) -> str:
    """The text up to its first full stop or empty line, on one line."""
    opening = text.split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[.!?])\s", opening, maxsplit=1)[0]


def fault(docstring: str) -> str:
    """Why a docstring is unclear; empty if it is not."""
    sentence = first_sentence(docstring)
    if re.match(r"(Who|What|Whoever|Whatever|Whose)\b", sentence) and not sentence.endswith("?"):
        return "headless"
    # A quotation in backticks is one word, however long it is.
    words = re.sub(r"`[^`]*`", "x", sentence).split()
    return f"{len(words)} words" if len(words) > MAX_WORDS else ""


def shapes(folder: Path) -> dict[str, Shape]:
    """The shape of each package right below `folder`, of its own modules, and of all, without `eco2/fake`."""
    found: defaultdict[str, Shape] = defaultdict(Shape)
    for path in sorted(folder.rglob("*.py")):
        below = path.relative_to(folder).parts
        package = below[0] if len(below) > 1 else "."
        if package != "fake":
            found["all"].add(path)
        found[package].add(path)
    return dict(found)


def _docstring_lines(node: Documented) -> Iterator[int]:
    first = node.body[0] if node.body else None
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        yield from range(first.lineno, (first.end_lineno or first.lineno) + 1)


def _code_lines(text: str) -> set[int]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        line
        for token in tokens
        if token.type not in NO_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }


def main() -> None:
    folder = ROOT / (sys.argv[1] if len(sys.argv) > 1 else "eco2")
    found = shapes(folder)
    print(
        f"{'package':<14}{'files':>6}{'lines':>7}{'functions':>11}{'private':>9}{'docstrings':>12}{'unclear':>9}"
    )
    for name, shape in found.items():
        print(
            f"{name:<14}{shape.files:>6}{shape.lines:>7}{shape.functions:>11}{shape.private_share:>9.1%}"
            f"{shape.docstrings:>12}{len(shape.unclear):>9}"
        )
    for line in found["all"].long + found["all"].unclear:
        print(line)


if __name__ == "__main__":
    main()
