"""Containers as an installation should run them: read-only, without rights, under a memory limit.

Docker's and podman's commands are the same for what is needed here. Everything shares the host's network, so
that it works where a sandbox allows no other; ports are free ones.
"""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOCKED = (
    "--network=host",
    "--read-only",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--pids-limit=100",
    "--no-healthcheck",
)
"""Nothing that a container may write to, become or start."""


PODMAN = str(Path("build/containers.conf").resolve())
"""What `scripts/build-image` configures podman by."""


class CommandFailed(Exception):
    """A command of the engine; the message is what it said."""


@dataclass(frozen=True)
class Container:
    """A running one. `pid`: of its first process, as the host sees it."""

    engine: "Engine"
    name: str
    pid: int

    async def execute(self, *command: str) -> str:
        """Runs `command` inside; its standard output."""
        return await self.engine.run("exec", self.name, *command)

    async def stop(self, seconds: int) -> tuple[int, float]:
        """SIGTERM, and SIGKILL after `seconds`; (exit code, seconds that it took)."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self.engine.run("stop", f"--time={seconds}", self.name)
        took = loop.time() - began
        return int(await self.engine.run("inspect", "--format={{.State.ExitCode}}", self.name)), took

    async def log(self) -> str:
        """What it wrote."""
        return await self.engine.run("logs", self.name)

    def pss(self) -> float:
        """MB of memory that are its own, shared pages by their share."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        (line,) = [line for line in rollup.splitlines() if line.startswith("Pss:")]
        return int(line.split()[1]) / 1024

    def status(self) -> dict[str, str]:
        """What the kernel says of its first process: user, capabilities, seccomp …"""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@dataclass(frozen=True)
class Engine:
    """`docker` or `podman`."""

    command: str

    async def run(self, *arguments: str) -> str:
        """Standard output of a command, or what it said on both (`logs`). Raises CommandFailed."""
        process = await asyncio.create_subprocess_exec(
            self.command,
            *arguments,
            env={**os.environ, "CONTAINERS_CONF": PODMAN},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if arguments[0] == "logs" else asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        if process.returncode != 0:
            said = f"{out.decode(errors='replace')}{(err or b'').decode(errors='replace')}"
            raise CommandFailed(f"{self.command} {' '.join(arguments)} ended {process.returncode}: {said}")
        return out.decode(errors="replace").strip()

    @property
    def locked(self) -> tuple[str, ...]:
        """The options of every container here. Podman would mount writable folders unasked."""
        return (*LOCKED, "--read-only-tmpfs=false") if self.command == "podman" else LOCKED

    async def once(self, image: str, *command: str, memory: str = "256m") -> str:
        """Runs to the end; what it printed."""
        limit = (f"--memory={memory}", f"--memory-swap={memory}")
        return await self.run("run", "--rm", *self.locked, *limit, image, *command)

    async def start(
        self, name: str, image: str, *command: str, memory: str, env: Mapping[str, str]
    ) -> Container:
        """Starts one that goes on; `remove` it by its name."""
        variables = [f"--env={key}={value}" for key, value in env.items()]
        limit = (f"--memory={memory}", f"--memory-swap={memory}")
        options = ("--detach", f"--name={name}", *self.locked, *limit, *variables)
        await self.run("run", *options, image, *command)
        return Container(self, name, int(await self.run("inspect", "--format={{.State.Pid}}", name)))

    async def remove(self, name: str) -> None:
        """Whether it runs or not."""
        await self.run("rm", "--force", name)
