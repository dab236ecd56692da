"""Eco² as a dependency: its wheel and sdist, installed outside this checkout, run another project's pipeline.

No network: the dependencies are those of the environment that runs the tests, put on the path of a fresh one.
Its editable install of this checkout is not among them.
"""

import asyncio
import sys
import sysconfig
from asyncio import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hatchling.build import build_sdist, build_wheel

from eco2.client import Client
from tests.acceptance.programs import Program, clean_environment

ROOT = Path(__file__).parents[2]

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "greeter"
version = "1"
dependencies = ["eco2[local,fake]"]
"""
PIPELINE = """
from pydantic import BaseModel
from eco2.pipeline import Context, Pipeline, Stage


class Name(BaseModel):
    name: str


class Greeting(BaseModel):
    text: str


async def greet(context: Context[Name]) -> Greeting:
    return Greeting(text=f"Hello {context.input.name}")


pipeline = Pipeline(
    "greet",
    Name,
    (Stage("greet", greet, Greeting),),
    lambda outputs: {"text": outputs.get(Greeting).text if outputs else None},
)
"""
IMPORT_ALL = """
import importlib, pkgutil, sys, eco2
assert eco2.__file__.startswith(sys.prefix), eco2.__file__
for module in pkgutil.walk_packages(eco2.__path__, "eco2."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert "tests" not in sys.modules
"""


@pytest.mark.parametrize("build", [build_wheel, build_sdist])
async def test_another_project_depends_on_the_package_and_runs_its_pipeline(
    build: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    package = tmp_path / build(str(tmp_path))
    project = tmp_path / "greeter"
    (project / "greeter").mkdir(parents=True)
    (project / "pyproject.toml").write_text(PROJECT)
    (project / "greeter" / "__init__.py").write_text(PIPELINE)
    monkeypatch.chdir(tmp_path)

    await run(sys.executable, "-m", "venv", "--without-pip", "venv")
    programs = tmp_path / "venv" / "bin"
    paths = {"base": str(programs.parent), "platbase": str(programs.parent)}
    site = Path(sysconfig.get_path("purelib", vars=paths))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(programs / "python"))
    await run(*pip, "install", "--no-index", "--no-build-isolation", f"{package}[local,fake]", str(project))

    await run(str(programs / "python"), "-I", "-c", IMPORT_ALL)
    assert "fake-openai" in await run(str(programs / "eco2"), "--help")
    ports = {"ECO2_PORT": "0", "ECO2_PROBES_PORT": "0", "ECO2_DEFAULT_MODEL": "local"}
    serving = await subprocess.create_subprocess_exec(
        str(programs / "eco2"),
        "serve",
        env={**environment(), **ports, "ECO2_PIPELINES": "greeter:pipeline"},
        stderr=subprocess.PIPE,
    )
    gateway = Program(serving)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(gateway.read())
            await gateway.listening()
            await gateway.ready()
            async with Client(gateway.url) as client:
                result = await client.result(await client.submit("greet", {"name": "Ada"}))
            assert (result["status"], result["text"]) == ("completed", "Hello Ada")
            serving.terminate()
    finally:
        if serving.returncode is None:
            serving.terminate()
        await serving.wait()
    assert serving.returncode == 0, gateway.log()


async def run(*command: str) -> str:
    """Runs a program outside this checkout; returns its output."""
    process = await subprocess.create_subprocess_exec(
        *command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


def environment() -> dict[str, str]:
    """The environment without settings of ours, or a path to this checkout."""
    return {name: value for name, value in clean_environment().items() if name != "PYTHONPATH"}
