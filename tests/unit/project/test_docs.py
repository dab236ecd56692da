"""The texts cannot rot: examples are decoded, names are looked up in the code, commands and links exist."""

import ast
import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import typer

from eco2.broker.topology import Topology
from eco2.cli import app
from eco2.consumers.liveness import HolderQuery, HolderReply
from eco2.delta import Live, decode_deltas, encode_deltas
from eco2.environment import markdown
from eco2.event import (
    Event,
    GrantedCall,
    Header,
    StageChanged,
    decode_events,
    decode_message,
    encode_batch,
    encode_event,
)
from eco2.eventstream import EventLines
from eco2.job import Job, decode_order, encode_order
from eco2.pipeline import Pipeline
from eco2.stages import scan

ROOT = Path(__file__).parents[3]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
WIRE = (ROOT / "docs/events.md").read_text()
TESTS_OWN = {"ECO2_TEST_AMQP_URL"}
A_PATH = re.compile(r"(?:eco2|tests|examples|docs|scripts|requirements|bench|observe|helm|\.ci)/[\w./*-]*")
ENTITIES = {entity.name for entity in Topology("eco2", ("scan",)).entities}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str, info: str) -> list[str]:
    """The fenced code blocks whose first line is exactly ```` ```info ````."""
    return re.findall(rf"^```{re.escape(info)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def ticked(line: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`\n]+)`", line)


def events() -> list[Event]:
    """Every event of the examples; None (unknown to the decoder) is a failure."""
    decoded = [event for block in blocks(WIRE, "json journal") for event in decode_events(block.encode())]
    known = [event for event in decoded if event is not None]
    assert len(known) == len(decoded)
    return known


def fields(kind: type) -> set[str]:
    """Names on the wire of a kind of event, `type` included."""
    return {"type", *(field.encode_name for field in msgspec.structs.fields(kind))}


# --- docs/events.md


def rewritten(body: bytes) -> bytes:
    """The journal message as the program would write it."""
    header, events = decode_message(body)
    return encode_batch([encode_event(event) for event in events if event], header)


def test_the_header_has_an_example() -> None:
    messages = [decode_message(block.encode()) for block in blocks(WIRE, "json journal")]
    assert any(header is not None for header, _ in messages)


@pytest.mark.parametrize(
    ("info", "again"),
    [
        ("json journal", rewritten),
        ("json order", lambda body: encode_order(decode_order(body))),
        ("json live", lambda body: encode_deltas(decode_deltas(body))),
        ("json ask", lambda body: msgspec.json.encode(msgspec.json.decode(body, type=HolderQuery))),
        ("json say", lambda body: msgspec.json.encode(msgspec.json.decode(body, type=HolderReply))),
        ("json heartbeat", lambda body: msgspec.json.encode(msgspec.json.decode(body, type=tuple[str, int]))),
    ],
)
def test_each_example_says_what_the_program_would_write(info: str, again: Callable[[bytes], bytes]) -> None:
    examples = blocks(WIRE, info)
    assert examples
    for example in examples:
        assert json.loads(again(example.encode())) == json.loads(example)


def test_every_kind_of_event_has_an_example() -> None:
    assert {type(event) for event in events()} == set(get_args(Event))


def test_every_field_of_every_message_is_explained() -> None:
    explained = {name for line in WIRE.splitlines() for name in ticked(line)}
    kinds = (*get_args(Event), *get_args(Live), GrantedCall, Header)
    wanted = set[str]().union(*(fields(kind) for kind in kinds)) | fields(Job) - {"id"}
    assert wanted - explained == set()


def test_outputs_of_stages_fit_the_scan() -> None:
    outputs = {stage.name: stage.output for stage in scan.stages}
    completed = [event for event in events() if isinstance(event, StageChanged) and event.output]
    assert completed
    for event in completed:
        assert outputs[event.stage].model_validate(event.output).model_dump(mode="json") == event.output


def test_the_server_sent_events_are_read_by_our_client() -> None:
    (stream,) = blocks(WIRE, "text sse")
    read = EventLines().feed(stream.encode())
    assert [(event.name, event.id, event.seq) for event in read] == [
        ("queued", "1", 0),
        ("vision", "3", 10),
        ("answer.delta", None, None),
        ("summarise.delta", None, None),
        ("summarise.reset", None, None),
        ("summarise.progress", None, None),
        ("retrying", None, None),
        ("reward", "5.1", 41),
    ]


# --- code in the texts


@pytest.mark.parametrize(
    ("text", "examples"),
    [
        ("events.md", ["rewards.py"]),
        ("pipelines.md", ["helpdesk.py", "test_helpdesk.py", "agent.py", "book.py", "ask.py", "shop.py"]),
    ],
)
def test_programs_in_the_texts_are_those_that_the_tests_run(text: str, examples: list[str]) -> None:
    shown = blocks((ROOT / "docs" / text).read_text(), "python")
    for example in examples:
        assert (ROOT / "tests/examples" / example).read_text() in shown


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_python_in_the_texts_compiles_and_imports_what_exists(path: Path) -> None:
    for block in blocks(path.read_text(), "python"):
        for node in ast.walk(
            compile(block, str(path), "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        ):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("eco2"):
                exported = defined(source(node.module or ""))
                assert {name.name for name in node.names} <= exported


def test_the_guide_from_celery_runs_from_top_to_bottom() -> None:
    names: dict[str, object] = {}
    shown = blocks((ROOT / "docs/from-celery.md").read_text(), "python")
    assert len(shown) >= 6
    for block in shown:
        exec(block, names)


def test_the_pipeline_in_the_readme_is_one() -> None:
    (block,) = [block for block in blocks((ROOT / "README.md").read_text(), "python") if "Pipeline(" in block]
    names: dict[str, object] = {}
    exec(block, names)
    assert isinstance(names["summary"], Pipeline)


# --- names of settings, commands, files and code


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_settings_exist(path: Path) -> None:
    known = set(re.findall(r"(?:ECO2|OPENAI)_[A-Z_]+", markdown())) | TESTS_OWN
    text = re.sub(r"\bECO2_(PROVIDERS|BUDGETS)__[A-Z0-9]+__", r"ECO2_\1__NAME__", path.read_text())
    assert set(re.findall(r"\b(?:ECO2|OPENAI)_[A-Z_]*[A-Z]\b", text)) <= known


def test_the_readme_shows_the_settings_to_tune_first() -> None:
    first = markdown().split("## ")[1]
    wanted = re.findall(r"^\| `(\w+)` \| (\S+) ", first, re.MULTILINE)
    assert len(wanted) == 8
    shown = re.findall(r"^\| `(ECO2_\w+)` \| (\S+) ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert shown == wanted


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_commands_exist(path: Path) -> None:
    command = typer.main.get_command(app)
    names = set(getattr(command, "commands", {}))
    assert "worker" in names
    text = path.read_text()
    spans = [span for line in text.splitlines() for span in ticked(line)] + shell_lines(text)
    used = {found for span in spans for found in re.findall(r"(?:^|[ /])eco2 ([a-z][a-z-]*)", span)}
    assert used <= names
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    made = {
        word for span in spans for found in re.findall(r"^make ([a-z -]+)", span) for word in found.split()
    }
    assert made <= targets


def shell_lines(text: str) -> list[str]:
    return [line for block in blocks(text, "sh") for line in block.splitlines()]


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_links_resolve(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in {
                re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
            }


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_files_and_code_named_in_the_texts_exist(path: Path) -> None:
    unknown = [
        f"line {number}: {name}"
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for name in unknown_names(line)
    ]
    assert unknown == []


def unknown_names(line: str) -> Iterator[str]:
    """Names in backticks that do not exist."""
    file: Path | None = None
    for name in ticked(line):
        if A_PATH.fullmatch(name):
            file = ROOT / name
        if not exists(name, file if file is not None and file.suffix == ".py" else None):
            yield name


def exists(name: str, file: Path | None) -> bool:
    """Code is looked up in the `file` that the line named before it; without one `Class.member` and
    `function()` may be anywhere in eco2, and a bare word may be anything."""
    if A_PATH.fullmatch(name):
        return any(ROOT.glob(name))
    if re.fullmatch(r"eco2(\.\w+)+", name):
        return name in ENTITIES or importable(name)
    member, function, kind = r"[A-Z][a-z]\w*\.\w+", r"\w+\(\)", r"[A-Z][a-z]\w*"
    code = name.removesuffix("()")
    if file is not None and re.fullmatch(f"{member}|{function}|{kind}", name):
        return code in defined(file)
    if re.fullmatch(f"{member}|{function}", name):
        return any(code in defined(path) for path in (ROOT / "eco2").rglob("*.py"))
    return True


def importable(name: str) -> bool:
    """A module, or what a module defines."""
    module, _, member = name.rpartition(".")
    return source(name).exists() or (source(module).exists() and member in defined(source(module)))


def source(module: str) -> Path:
    """The file of a module."""
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def defined(path: Path) -> frozenset[str]:
    """The classes, functions, members (`Class.member`) and imported names of a file."""
    names = set[str]()
    for node in ast.parse(path.read_text()).body:
        names |= {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
        names |= bound(node)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{member}" for item in node.body for member in bound(item)}
            names |= {f"{node.name}.{member}" for member in own_attributes(node)}
    return frozenset(names)


def own_attributes(node: ast.ClassDef) -> set[str]:
    """What methods of the class assign to `self`."""
    return {
        target.attr
        for target in ast.walk(node)
        if isinstance(target, ast.Attribute)
        and isinstance(target.ctx, ast.Store)
        and isinstance(target.value, ast.Name)
        and target.value.id == "self"
    }


def bound(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
    return set()


# --- docs/glossary.md


def test_each_term_of_the_glossary_has_one_sentence_and_a_source() -> None:
    text = (ROOT / "docs/glossary.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
    terms = [row for row in rows if row[0] != "Term" and set(row[0]) != {"-"}]
    assert len(terms) >= 50
    assert len({term for term, *_ in terms}) == len(terms)
    for term, meaning, source in terms:
        assert source, term
        assert re.fullmatch(r"[A-Z][^.]*(\.\S[^.]*)*\.", meaning), term


# --- docs/architecture.md and docs/decisions


def test_the_import_map_is_the_one_that_is_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts: list[Mapping[str, object]] = project["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert isinstance(layers, list)
    wanted = [sorted(re.findall(r"\w+", layer)) for layer in layers]
    (shown,) = blocks((ROOT / "docs/architecture.md").read_text(), "text layers")
    assert [sorted(re.findall(r"\w+", line.partition("  ")[0])) for line in shown.splitlines()] == wanted


@pytest.mark.parametrize("path", sorted((ROOT / "docs/decisions").glob("*.md")), ids=relative)
def test_decisions_are_short_dated_and_complete(path: Path) -> None:
    text = path.read_text()
    assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", path.name)
    assert re.match(rf"# {int(path.name[:4])}\. .+\n\n20\d\d-\d\d-\d\d\n", text)
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Context", "Decision", "Why", "Consequences"]
    assert len(text.splitlines()) <= 40
    assert path.name in (ROOT / "docs/architecture.md").read_text()
