"""A private RabbitMQ node for tests: own ports, own epmd, own folders; nothing of the machine's own RabbitMQ.

Guarantees: after `start` the node answers AMQP on `url`; after `stop` no process of it is left. Its data
survive `stop`, `kill9` and `start` again; its logs stay in `folder`. Methods block: call them from a
coroutine by `asyncio.to_thread`.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

SCRIPTS = Path("/usr/lib/rabbitmq/bin")
BOOT_SECONDS = 90.0
STOP_SECONDS = 30.0


class NodeFailed(Exception):
    """The node did not start or stop; the message carries the end of its log."""


class Node:
    """One node in `folder` (made when missing: data, logs). `config`: more lines of rabbitmq.conf.

    Of a cluster each node has a `name`, and all one `home` (with the cookie) and one `epmd`: its port, and
    whether this node runs it.
    """

    def __init__(
        self,
        folder: Path,
        config: str = "",
        name: str = "eco2@localhost",
        home: Path | None = None,
        epmd: tuple[int, bool] | None = None,
    ) -> None:
        self.folder = folder
        self.name = name
        self._home = home or folder / "home"
        self._config = config
        self.port, self._dist_port, own_epmd = free_ports(3)
        self._epmd_port, self._runs_epmd = epmd or (own_epmd, True)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        assert self._server is not None, "start() the node first"
        return self._server.pid

    @property
    def running(self) -> bool:
        """True between `start` and `stop` or `kill9`."""
        return self._server is not None

    def start(self) -> None:
        """Returns when the node answers AMQP (5 to 12 s). Raises NodeFailed."""
        if not (SCRIPTS / "rabbitmq-server").exists():
            raise NodeFailed(
                f"RabbitMQ is not installed ({SCRIPTS}): run `make setup`, or set ECO2_TEST_AMQP_URL"
            )
        self._write_files()
        self.start_epmd()
        with (self.folder / "console.log").open("ab") as console:
            server = self._spawn([str(SCRIPTS / "rabbitmq-server")], console.fileno())
        self._server = server
        deadline = time.monotonic() + BOOT_SECONDS
        while not answers_amqp(self.port):
            if _ended(server, within=0.1) or time.monotonic() > deadline:
                reason = f"RabbitMQ ended or did not answer within {BOOT_SECONDS:g} s"
                tail = self.log_tail()
                self.stop()
                raise NodeFailed(f"{reason}; logs in {self.folder}:\n{tail}")

    def start_epmd(self) -> None:
        """Starts the epmd that this node has to run, unless it runs already."""
        if not self._runs_epmd or self._epmd is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "console.log").open("ab") as console:
            epmd = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = self._spawn(epmd, console.fileno())

    def stop(self) -> None:
        """End the node in good order, then its epmd; nothing happens when it is not running."""
        self._end_server(kill=False)
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def restart(self) -> None:
        """An orderly restart on the same ports, with the same data."""
        self._end_server(kill=False)
        self.start()

    def kill9(self) -> None:
        """The node dies at once, as by power loss of its container; `start` brings it back with its data."""
        self._end_server(kill=True)

    def suspend(self) -> None:
        """Stops all threads of the node (SIGSTOP); its connections stay open until `resume`."""
        os.kill(self.pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")
        # One thread takes the signal and stops the others: on a busy machine they run on for a while.
        while any(_state(task) != "T" for task in tasks.iterdir()):
            time.sleep(0.001)

    def resume(self) -> None:
        """Lets a suspended node continue (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def ctl(self, *arguments: str) -> str:
        """Standard output of `rabbitmqctl <arguments>` (about 2 s a call)."""
        command = [str(SCRIPTS / "rabbitmqctl"), "--quiet", *arguments]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NodeFailed(f"rabbitmqctl {' '.join(arguments)} ended {done.returncode}: {done.stderr}")
        return done.stdout

    def remove_data(self) -> None:
        """Free the disk of a stopped node; the logs stay."""
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def log_tail(self, lines: int = 80) -> str:
        texts = [path.read_text(errors="replace") for path in sorted(self.folder.glob("**/*.log"))]
        return "\n".join("\n".join(text.splitlines()[-lines:]) for text in texts)

    def _end_server(self, *, kill: bool) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        if kill:
            server.kill()
        else:
            server.terminate()
        if not _ended(server, within=STOP_SECONDS):
            server.kill()
            server.wait()
            raise NodeFailed(f"RabbitMQ did not stop within {STOP_SECONDS:g} s:\n{self.log_tail()}")

    def _spawn(self, command: list[str], output: int) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the terminal reaches only pytest, which then stops the node.
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _write_files(self) -> None:
        for folder in (self._home, self.folder / "data", self.folder / "log"):
            folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "rabbitmq.conf").write_text(f"log.file.level = info\n{self._config}\n")
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "rabbitmq-env.conf").write_text("")

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "ERL_"))}
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return kept | {
            "HOME": str(self._home),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            # The start script then becomes the Erlang VM instead of its parent, so that signals reach the VM.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-noinput {loopback}",
        }


def _ended(process: subprocess.Popen[bytes], *, within: float) -> bool:
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


def _state(task: Path) -> str:
    """Returns the letter of a thread's state, as in proc_pid_stat(5)."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def answers_amqp(port: int) -> bool:
    """A listening socket is not enough: the broker accepts connections before it serves them."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return len(probe.recv(1)) == 1
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """Returns ports of the loopback that nobody listens on.

    They lie below those that the system gives to connections, which would take one before its server starts.
    """
    ports: list[int] = []
    for port in random.sample(range(16_384, 32_768), 1000):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError(f"not {count} free ports between 16384 and 32767")
