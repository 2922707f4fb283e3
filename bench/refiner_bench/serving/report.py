"""The measurement behind ``refiner-bench serve``: one server on one processor, clients on the others."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from refiner import bundled
from refiner.errors import InputError, UsageError
from refiner.ranges import Between
from refiner.reports import Report, new_report
from refiner_bench.serving.clients import CONNECTING_S, RATE, WARM_UP, Load

# The image of the frames in `refiner_bench.serving.clients`, and its lens.
LENS = ("--image-size", "1000", "1002", "--focal-length", "1145")
# More clients than any measurement here has: no limit.
NO_LIMIT = 10_000
# So many more clients ask at the limit, until one is refused.
MOST_ASKED = 20
SECONDS, TIMES = Between(2.0, 3600.0), Between(1.0, 100.0)
SERVER = """\
import os, sys
processors = [int(number) for number in sys.argv[1].split(",") if number]
if processors:
    os.sched_setaffinity(0, processors)
from refiner.cli.stream import main
sys.exit(main(sys.argv[2:]))
"""

Log = Callable[[str], None]


@dataclass(frozen=True)
class ServeOptions:
    """Options of the measurement.

    Attributes:
        seconds: of each number of clients.
        lifter: whether the server lifts 2D poses with the bundled lifter.
        beyond: numbers of clients, as multiples of the limit, for a server that has none.

    Raises:
        UsageError: a number is out of range.
    """

    seconds: float = 10.0
    lifter: bool = False
    beyond: tuple[float, ...] = (1.5, 2.0)

    def __post_init__(self) -> None:
        if not SECONDS.holds(self.seconds) or self.seconds * RATE <= 2 * WARM_UP:
            raise UsageError(f"seconds is {self.seconds}; expected {SECONDS}, and over {2 * WARM_UP / RATE:g}")
        wrong = [times for times in self.beyond if not TIMES.holds(times)]
        if wrong:
            raise UsageError(f"beyond is {wrong[0]}; expected {TIMES}")


def serve_report(options: ServeOptions, log: Log = lambda line: None) -> Report:
    """Measure a server with 1, 2, 4, ... clients up to its limit, and one without a limit beyond it.

    At the limit one more client asks, and then one of the clients sends as fast as it can.

    Returns:
        The report: ``calibration`` in the server's own words; ``runs``, each with the number of clients, the latency
        that they see, late and unanswered frames, and the load of the server; ``next_client``, what it is told.

    Raises:
        InputError: the server does not start, or the clients fail.
    """
    server_on, clients_on = _processors()
    settings: dict[str, Any] = asdict(options) | {
        "rate": RATE,
        "processors": os.cpu_count(),
        "pinned": bool(server_on),
        "model": bundled.default_checkpoint("causal-refiner").stem,
        "lifter_model": bundled.default_checkpoint("live-lifter").stem if options.lifter else None,
    }
    runs: list[dict[str, Any]] = []
    load = Load(0, 1, 0, options.seconds, options.lifter, clients_on)
    with _server(server_on, options.lifter) as (port, said):
        log(said)
        limit = int(_status(port)["limit"])
        load = replace(load, port=port)
        runs += [_run(replace(load, clients=clients), log) for clients in _rising(limit)]
        # The server has measured the cost of a frame again.
        limit = int(_status(port)["limit"])
        at_limit = _run(replace(load, clients=limit), log, ask=True)
        runs.append(at_limit)
        if limit > 1:
            runs.append(_run(replace(load, clients=limit - 1, bursts=1), log))
        status = _status(port)
    with _server(server_on, options.lifter, "--clients", str(NO_LIMIT)) as (port, _):
        load = replace(load, port=port)
        beyond = [_run(replace(load, clients=round(times * limit)), log) for times in options.beyond]
    runs += [run | {"no_limit": True} for run in beyond]
    report = new_report("serve", settings)
    report["calibration"] = said
    report["limit"] = limit
    report["next_client"] = at_limit.pop("next_client")
    report["runs"] = runs
    report["status"] = status
    return report


def _rising(limit: int) -> list[int]:
    """1, 2, 4, ... below the limit."""
    return [1 << power for power in range(limit.bit_length()) if 1 << power < limit]


def _processors() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """One processor for the server and the others for the clients; none where they cannot be chosen."""
    if not hasattr(os, "sched_getaffinity"):
        return (), ()
    first, *others = sorted(os.sched_getaffinity(0))
    return ((first,), tuple(others)) if others else ((), ())


@contextlib.contextmanager
def _server(processors: tuple[int, ...], lifter: bool, *more: str) -> Iterator[tuple[int, str]]:
    """Run a server on a free port. Gives the port, and what the server says of its limit."""
    words = [*LENS, "--serve", "0", "--rate", f"{RATE:g}", *(["--lifter", "bundled"] if lifter else []), *more]
    command = [sys.executable, "-c", SERVER, ",".join(map(str, processors)), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, contextlib.ExitStack() as stack:
        stack.callback(process.terminate)
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            found = re.search(r"serving ws://[^:]+:(\d+), (.*); Ctrl-C", line)
            if found:
                break
            said += line
        else:
            raise InputError(f"the server did not start: {said.strip()}")
        # What it writes later must not fill the pipe.
        reading = threading.Thread(target=process.stderr.read)
        reading.start()
        stack.callback(reading.join)
        stack.callback(process.terminate)
        yield int(found[1]), found[2]


def _status(port: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/status")
        status: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return status


def _run(load: Load, log: Log, ask: bool = False) -> dict[str, Any]:
    """Run the clients, and read the server's load meanwhile. With ``ask`` one more client asks in the middle."""
    command = [sys.executable, "-m", "refiner_bench.serving.clients"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(asdict(load)) + "\n")
    process.stdin.flush()
    wanted = load.clients + load.bursts
    loads, told, last = [], None, time.monotonic() + 60.0
    while process.poll() is None and time.monotonic() < last + load.seconds:
        time.sleep(0.5)
        status = _status(load.port)
        # The first seconds hold the opening of the streams.
        if status["streams"] == wanted and process.poll() is None:
            loads.append(float(status["load"]))
            if ask and told is None and len(loads) > 2 * CONNECTING_S + load.seconds / 2:
                told = _ask(load.port)
    if process.poll() is None:
        process.kill()
    output, _ = process.communicate()
    if process.returncode != 0:
        raise InputError(f"the clients of the measurement failed with code {process.returncode}; see above")
    if ask and told is None:
        raise InputError("the clients were gone before another one asked; give them more --seconds")
    settled = loads[int(2 * (CONNECTING_S + 1.0)) : -1] or loads or [0.0]
    result = {"clients": load.clients, "bursts": load.bursts, **json.loads(output)}
    result["load"] = sum(settled) / len(settled)
    latency = result["latency_ms"]
    log(
        f"{load.clients} clients, {load.bursts} faster: {result['held']} held, {latency}, load {result['load']:.2f}, "
        f"load of the clients {result['clients_load']:.2f}"
    )
    return result | ({"next_client": told} if ask else {})


def _ask(port: int) -> dict[str, Any]:
    """What one more client is told: the code and the reason of the closing.

    The limit may have risen by a client or two: where one is taken, the next one asks.

    Raises:
        InputError: all were taken.
    """
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with contextlib.ExitStack() as stack:
        for taken in range(MOST_ASKED):
            client = stack.enter_context(connect(f"ws://127.0.0.1:{port}"))
            with contextlib.suppress(TimeoutError):
                try:
                    client.recv(timeout=0.2)
                except ConnectionClosed:
                    return {"taken": taken, "code": client.close_code, "reason": client.close_reason}
    raise InputError(f"the server has a limit and took {MOST_ASKED} clients beyond it")
