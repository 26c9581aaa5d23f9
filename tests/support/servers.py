"""Spark Connect servers in their own processes, and Python environments that lack packages."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.sessions import QUICK_JAVA

ROOT = Path(__file__).parents[2]
_OURS = ("pyspark_knn", "__editable__")
START_UP_SECONDS = 120


def python_without(folder: Path, *names: str) -> Path:
    """The interpreter of a new environment with these packages, except `names` and pyspark_knn."""
    venv.create(folder, symlinks=True)
    there = next(folder.glob("lib/python*/site-packages"))
    for each in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not each.name.startswith((*names, *_OURS)) and not (there / each.name).exists():
            (there / each.name).symlink_to(each)
    return folder / "bin" / "python"


def environment(python: Path, **more: str) -> dict[str, str]:
    """The environment of a process whose Spark workers run `python` without the checkout."""
    hidden = {"PYTHONPATH", "SPARK_HOME", "SPARK_REMOTE", "SPARK_CONNECT_MODE_ENABLED"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "PYSPARK_PYTHON": str(python), **more}


@dataclass(frozen=True)
class Server:
    """Where a Spark Connect server is: its URL for clients, and that of Spark's REST API."""

    url: str
    api: str

    def persisted(self) -> list[str]:
        """Names of the RDDs that all sessions together have persisted."""
        (application,) = self._ask("")
        return [each["name"] for each in self._ask(f"/{application['id']}/storage/rdd")]

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(self.api + path, timeout=60) as answer:
            return json.load(answer)


@contextlib.contextmanager
def connect_server(folder: Path, python: Path, master: str) -> Iterator[Server]:
    """A server whose workers run `python`, with all its files in `folder`."""
    import pyspark

    home = Path(pyspark.__file__).parent
    port, ui_port = _free_ports(2)
    settings = {
        "spark.connect.grpc.binding.port": str(port),
        # Where a server keeps the files of its sessions.
        "spark.driver.extraJavaOptions": f"{QUICK_JAVA} -Djava.io.tmpdir={folder / 'kept'}",
        "spark.executor.extraJavaOptions": QUICK_JAVA,
        # To persist, Spark copies the session and its files, which garbage collection removes.
        "spark.cleaner.periodicGC.interval": "3s",
        "spark.driver.memory": "1g",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.local.dir": str(folder / "local"),
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.port": str(ui_port),
    }
    (folder / "kept").mkdir()
    script = home / "sbin" / "start-connect-server.sh"
    command = ["bash", str(script), "--wait", "--master", master]
    command += [word for pair in settings.items() for word in ("--conf", "=".join(pair))]
    variables = environment(
        python,
        SPARK_HOME=str(home),
        SPARK_LOG_DIR=str(folder / "log"),
        SPARK_PID_DIR=str(folder),
        SPARK_WORKER_DIR=str(folder / "work"),
    )
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=variables,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await_port(server, port, folder / "server.log")
            yield Server(
                f"sc://127.0.0.1:{port}", f"http://127.0.0.1:{ui_port}/api/v1/applications"
            )
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=60)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


def _await_port(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_UP_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the server did not come up:\n{log.read_text()[-4000:]}")
        time.sleep(0.2)


def run_script(
    script: str, *arguments: str, python: Path | str = sys.executable, folder: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in its own process that can import the checkout, though its workers cannot."""
    source = folder / "script.py"
    source.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{script}")
    return subprocess.run(
        [str(python), "-W", "error::UserWarning:pyspark_knn", str(source), *arguments],
        cwd=folder,
        env={**environment(Path(python)), **more},
        capture_output=True,
        text=True,
        timeout=240,
    )
