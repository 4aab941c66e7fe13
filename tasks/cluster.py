"""Dask, where it is asked for: workers of this machine, or a cluster that has an address.

Nothing of Dask is imported without it.
"""

from __future__ import annotations

import copyreg
import hashlib
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from multiprocessing import resource_tracker
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from goodnet.errors import InputError

if TYPE_CHECKING:
    from distributed import Client
    from prefect_dask import DaskTaskRunner

_LOCAL = re.compile(r"local(?::([1-9]\d{0,3}))?")
_ADDRESS = re.compile(r"(?:(?:tcp|tls)://)?(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+)):(\d{1,5})", re.ASCII)
_THREADS_OF_A_NET = 2
_ANSWER_SECONDS = 5
_HANDSHAKE_SECONDS = 5
_TRIES = 3
_GREETING, _MOST_GREETING = b"pickle-protocol", 1000


@dataclass(frozen=True)
class Cluster:
    """What to run on.

    Attributes:
        address: of a scheduler; None for workers of this machine.
        host: of the scheduler.
        port: of the scheduler.
        num_workers: processes to start here where there is no address.
    """

    address: str | None = None
    host: str = ""
    port: int = 0
    num_workers: int = 0

    @classmethod
    def parse(cls, text: str) -> Cluster:
        """Read `local`, `local:4`, `tcp://host:8786`, `tls://host:8786` or `host:8786`.

        Raises:
            InputError: it is none of these, or Dask is not installed.
        """
        local = _LOCAL.fullmatch(text)
        address = None if local else _ADDRESS.fullmatch(text)
        if local is None and (address is None or not 0 < int(address[3]) < 2**16):
            raise InputError(
                f"dask is {text!r}, expected local, local:N with the number of workers, or the "
                "address of a scheduler, tcp://HOST:PORT"
            )
        if not find_spec("prefect_dask"):
            raise InputError("Dask is not installed: pip install goodnet[dask]")
        if address is not None:
            return cls(address=text, host=address[1] or address[2], port=int(address[3]))
        # A repair keeps two threads busy.
        chosen = local[1] if local else None
        most = (os.cpu_count() or 1) // _THREADS_OF_A_NET
        return cls(num_workers=int(chosen) if chosen else max(1, most))

    def require_answer(self) -> None:
        """Raise InputError if there is an address at which no scheduler answers.

        Dask's client would wait for ever for somebody who listens and says nothing.
        """
        if self.address is None:
            return
        try:
            with socket.create_connection((self.host, self.port), _ANSWER_SECONDS) as other:
                if not self.address.startswith("tls:"):  # where the client speaks first
                    _read_greeting(other)
        except OSError as error:
            raise self._no_answer(error) from error

    @contextmanager
    def runner(self, artifacts: Path) -> Iterator[DaskTaskRunner]:
        """Yield Prefect's task runner on this cluster, whose client is connected.

        Args:
            artifacts: folder of runs and cache, which the workers have to see too.

        Raises:
            InputError: no scheduler answers, or a worker cannot be used.
        """
        os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")  # What matters is told.
        from prefect_dask import DaskTaskRunner

        self.require_answer()
        self._require_certificates()
        pickle_by_name()
        runner = DaskTaskRunner(**self._options())
        with _chosen_settings(), runner:
            try:
                with _unreached_by_ctrl_c():
                    client = connect(runner)
            except OSError as error:
                raise self._no_answer(error) from error
            artifacts.mkdir(parents=True, exist_ok=True)
            _require_able(client, artifacts)
            yield runner

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Let what is wrong with workers and scheduler, where a result is waited for, be a line.

        Raises:
            InputError: workers end whenever they work on it.
            ConnectionError: the scheduler is gone.
        """
        from distributed import CancelledError, KilledWorker

        try:
            yield
        except KilledWorker as error:
            raise InputError(
                f"{error.allowed_failures + 1} workers of Dask ended one after another while they "
                "worked on it, as where a machine has too little memory"
            ) from error
        except CancelledError as error:
            raise ConnectionError(
                f"the Dask scheduler at {self.address or 'this machine'} is gone; what was "
                "computed is kept, the same command goes on from there"
            ) from error

    def _options(self) -> dict[str, Any]:
        if self.address is not None:
            return {"address": self.address, "client_kwargs": {"timeout": _HANDSHAKE_SECONDS}}
        here = {
            "n_workers": self.num_workers,
            "threads_per_worker": 1,  # one net at a time
            "host": "127.0.0.1",
            # Dask runs what it is sent by whoever reaches its ports: certificates that this process
            # makes keep other users of the machine out. What it tells of itself has a free port.
            "security": True,
            "dashboard_address": "127.0.0.1:0",
            "memory_limit": 0,  # a net has its allowance
        }
        return {"cluster_class": "distributed.LocalCluster", "cluster_kwargs": here}

    def _require_certificates(self) -> None:
        """Raise InputError if an address with TLS is given without certificates.

        A client of Dask shows its own to every scheduler, and has an odd error where it has none.
        """
        from distributed import Security

        if self.address is None or not self.address.startswith("tls:"):
            return
        try:
            context = Security().get_connection_args("client")["ssl_context"]
        except OSError as error:
            raise InputError(f"Dask's certificates cannot be read ({error})") from error
        if context is None:
            raise InputError(
                f"{self.address} needs certificates, and Dask is told of none, expected them in "
                "DASK_DISTRIBUTED__COMM__TLS__CA_FILE, …__CLIENT__CERT and …__CLIENT__KEY"
            )

    def _no_answer(self, error: OSError) -> InputError:
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        return InputError(
            f"no Dask scheduler answers at {self.address} ({reason}), expected the address that "
            "`dask scheduler` prints"
        )


def _read_greeting(scheduler: socket.socket) -> None:
    """Read what a scheduler says first; raise OSError if that is something else, or nothing."""
    said = b""
    while _GREETING not in said:
        more = scheduler.recv(_MOST_GREETING)
        said += more
        if not more or len(said) > _MOST_GREETING:
            raise OSError("somebody else listens there")


def _require_able(client: Client, artifacts: Path) -> None:
    """Raise InputError unless all workers that are there by now find our modules and the cache."""

    # A function in a function is sent as its code: a worker may have none of our modules.
    def find(folder: str) -> tuple[bool, bool]:
        from importlib.util import find_spec
        from pathlib import Path

        return find_spec("tasks") is not None, Path(folder).is_dir()

    for worker, (modules, folder) in client.run(find, str(artifacts)).items():
        if not modules:
            raise InputError(
                f"the Dask worker {worker} does not find goodnet's flows, expected one that was "
                "started in the folder of its checkout"
            )
        if not folder:
            raise InputError(
                f"the Dask worker {worker} does not find {artifacts}, expected that folder at the "
                "same path on every machine"
            )


def require_source(digest: str) -> None:
    """Raise InputError in a worker whose code is another; those that join late are not asked first.

    Args:
        digest: `source_digest` where the work comes from.
    """
    if source_digest() != digest:
        raise InputError(
            f"a Dask worker on {socket.gethostname()} has another goodnet, expected the same "
            "checkout on every machine"
        )


@cache
def source_digest() -> str:
    """Return what tells this code from another version: parts of two do not make one result."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for package in ("flows", "goodnet", "tasks"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


@contextmanager
def _chosen_settings() -> Iterator[None]:
    """Let workers of this machine have this process's environment, and serve no pages.

    Dask would set the numbers of threads of numerical libraries in it, for repairs too.
    """
    import dask
    import distributed  # noqa: F401  # which sets what is changed here

    chosen: dict[str, Any] = {
        "distributed.nanny.pre-spawn-environ": {},
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
    }
    with dask.config.set(chosen):
        yield


@contextmanager
def _unreached_by_ctrl_c() -> Iterator[None]:
    """Let processes that are started here or by threads from here leave Ctrl-C to this one.

    A terminal sends it to all of them, and they would end in tracebacks. Blocked signals stay so in
    threads and processes that follow; here, one that comes meanwhile is only late.
    """
    resource_tracker.ensure_running()  # which would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def pickle_by_name() -> None:
    """Let flows and tasks of our modules be pickled as their names there.

    Their code would be pickled else, and run in place of that of the process that unpickles it.
    """
    from prefect import Flow, Task

    for kind in (Flow, Task):
        copyreg.pickle(kind, _name)


def _name(one: Any) -> tuple[Callable[[str], Any], tuple[str]]:
    return resolve_name, (f"{one.fn.__module__}:{one.fn.__name__}",)


def connect(runner: DaskTaskRunner) -> Client:
    """Return the client of a task runner, connected.

    distributed 2026.8 asserts that the scheduler's first message to a client comes alone; one about
    another run's work that is ended in the same moment may come with it. The next try is as good as
    the first.
    """
    for _ in range(_TRIES):
        with suppress(AssertionError):
            return runner.client
    return runner.client


def still_wanted() -> Callable[[], bool]:
    """Return a function that says whether somebody still waits for what this thread works on.

    Dask cannot stop what runs in a thread of a worker: it only forgets it once its client has gone
    or given it up. Elsewhere somebody always waits.
    """
    try:
        worker = sys.modules["distributed"].get_worker()
    except (KeyError, ValueError):
        return lambda: True
    key = worker.get_current_task()

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state == "executing"

    return wanted


def require_wanted(wanted: Callable[[], bool]) -> None:
    """Raise InputError where nobody waits any more: what computes in a worker asks now and then."""
    if not wanted():
        raise InputError("was stopped, since the command that wanted it has ended")
