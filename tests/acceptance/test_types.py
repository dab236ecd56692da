"""The types that npm's openapi-typescript makes of our document, as a strict TypeScript client sees them."""

import asyncio
import shutil
from pathlib import Path

import msgspec

from eco2.gateway.app import PREFIXES
from eco2.gateway.openapi import document
from eco2.pipeline import Pipeline
from eco2.stages import scan
from tests.examples.helpdesk import Message, helpdesk
from tests.support.gateways import CONFIG

CLIENTS = Path(__file__).parents[1] / "clients"
PLAIN = Pipeline("plain", Message, helpdesk.stages, lambda _: {})
"""A pipeline without a type of its result."""


async def run(program: str, *args: str, folder: Path) -> None:
    """Runs a program of npm's; what it writes is the failure."""
    process = await asyncio.create_subprocess_exec(
        CLIENTS / "node_modules/.bin" / program,
        *args,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


async def test_generated_types_are_exact(tmp_path: Path) -> None:
    described = document([scan, helpdesk, PLAIN], CONFIG, PREFIXES)
    (tmp_path / "openapi.json").write_bytes(msgspec.json.encode(described))
    await run("openapi-typescript", "openapi.json", "--output", "openapi.d.ts", folder=tmp_path)
    shutil.copy(CLIENTS / "types.ts", tmp_path)
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext"]
    await run("tsc", *options, "types.ts", folder=tmp_path)
