"""``sfi-agent bus`` and ``sfi-agent tail``."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from sfi_agent.cli import options
from sfi_agent.cli.options import err, out
from sfi_agent.errors import ServiceError, SettingError

if TYPE_CHECKING:
    from sfi_mqtt.broker import Broker
    from sfi_mqtt.tail import Shown

EMBEDDED = "embedded"
PORT = 1883
DAY = 86_400
"""Seconds."""
DETAILED = 1_000
"""Events that wait for a broker at most, where details are among them."""

BrokerUrl = Annotated[
    str,
    typer.Option(help="mqtt://[user@]host[:port], mqtts:// for TLS. The password: SFI_MQTT_PASSWORD."),
]
PasswordFile = Annotated[Path | None, typer.Option(help="File with the password, instead of the variable.")]
Ca = Annotated[
    Path | None, typer.Option(help="Authorities to trust with mqtts://, PEM; default the system's.")
]
Cert = Annotated[Path | None, typer.Option(help="Certificate of this client, PEM.")]
Key = Annotated[Path | None, typer.Option(help="Key of --cert, PEM, if it is not in the same file.")]


def bus(
    broker: Annotated[str, typer.Option(help="mqtt://..., or `embedded`: a broker in this process.")],
    model: options.Model = options.DEFAULT_MODEL,
    name: Annotated[str, typer.Option(help="Of the runtime in the topics, sfi/NAME/...")] = "sfi",
    policy: Annotated[
        str | None, typer.Option(help="A policy by name (balanced, ...); requests may bring their own.")
    ] = None,
    store: Annotated[Path | None, typer.Option(help="Folder in which sessions outlive this command.")] = None,
    bytes: Annotated[
        int | None, typer.Option(min=1, help="That sessions may take in memory; default no limit.")
    ] = None,
    sessions: Annotated[
        int | None, typer.Option(min=1, help="That stay in memory between turns; default no limit.")
    ] = None,
    idle_seconds: Annotated[
        float | None, typer.Option(help="After which an unused session leaves memory; default never.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of the embedded broker, on this machine only.")
    ] = PORT,
    together: Annotated[int, typer.Option(min=1, help="Turns at a time.")] = 8,
    grace: Annotated[
        float,
        typer.Option(min=0, max=DAY, help="Seconds that running turns get at the end."),
    ] = 10.0,
    details: Annotated[
        bool,
        typer.Option("--details", help="Publish tokens and memories, for tail --web: readers see all text."),
    ] = False,
    password_file: PasswordFile = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
) -> None:
    """Serve a model on an MQTT broker, until Ctrl-C or SIGTERM.

    A broker that cannot be reached at the start is an error; one that is lost later is tried again.
    """
    from sfi_agent import Limits
    from sfi_mqtt import desk
    from sfi_mqtt.messages import base_topic
    from sfi_mqtt.service import BusService

    base_topic(name)  # refused now, not when the model has been loaded
    chosen = options.policy_of(policy=policy)
    kept = Limits(bytes=bytes, sessions=sessions, idle_seconds=idle_seconds)
    limits = desk.Limits(together=together)
    url = f"mqtt://127.0.0.1:{port}" if broker == EMBEDDED else broker
    place = _broker(url, password_file, ca, cert, key)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with ExitStack() as stack:
        if broker == EMBEDDED:
            from sfi_mqtt.embedded import EmbeddedBroker

            stack.enter_context(EmbeddedBroker(port))
        else:
            _reach(place)
        runtime = stack.enter_context(options.runtime_of(model, device, dtype, store, kept))
        runtime.policy = chosen
        stopped = stack.enter_context(_stopped())  # before anybody hears that the runtime is there
        service = stack.enter_context(
            BusService(
                place,
                runtime,
                name=name,
                limits=limits,
                grace=grace,
                details=details,
                queue_size=DETAILED if details else 10_000,
            )
        )
        while not (service.connected or stopped.wait(0.1)):  # what hinders it is logged
            if service.refused:
                raise ServiceError(f"{place.address}: {service.problem}")
        if service.connected:
            _say(f"{runtime.name} answers on sfi/{name}/requests at {place.address}")
        stopped.wait()
        _say("closing: running turns may end")
        service.close()


def tail(
    broker: BrokerUrl,
    name: Annotated[str, typer.Option(help="Of the runtime; + for every one.")] = "+",
    count: Annotated[
        int | None, typer.Option(min=1, help="Messages after which to end; default none.")
    ] = None,
    password_file: PasswordFile = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    json: Annotated[bool, typer.Option("--json", help="Print the messages as they are, one a line.")] = False,
    web: Annotated[
        bool, typer.Option("--web", help="Show turns on a page instead, served to this machine alone.")
    ] = False,
    port: Annotated[int, typer.Option(help="Of the page; 0 takes any that is free.")] = 0,
) -> None:
    """Show what runtimes on a broker do, until Ctrl-C or SIGTERM."""
    from sfi_mqtt.tail import Tail

    place = _broker(broker, password_file, ca, cert, key)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with ExitStack() as stack:
        stopped = stack.enter_context(_stopped())
        show = stack.enter_context(_page(port)) if web else partial(_print, json)
        for shown in stack.enter_context(Tail(place, name)).until(stopped, count):
            show(shown)


def _print(json: bool, shown: Shown) -> None:
    out.out(shown.json if json else shown.line, highlight=False)


@contextmanager
def _page(port: int) -> Iterator[Callable[[Shown], None]]:
    """Serve a page; what is yielded puts a message on it."""
    from sfi_agent.trace import LiveView, Recorder
    from sfi_mqtt.heard import Heard

    recorder = Recorder()
    with LiveView(recorder, port) as view:
        _say(f"watch at {view.url}")
        yield Heard(recorder).take


def _say(line: str) -> None:
    err.print(line, highlight=False, soft_wrap=True)


def _broker(
    url: str, password_file: Path | None, ca: Path | None, cert: Path | None, key: Path | None
) -> Broker:
    """Where the broker is and how to log in; refuses secrets that ``ps`` would show."""
    from sfi_mqtt.broker import Broker, Tls

    if "://" in url and "@" in url and ":" in urlsplit(url).netloc.rpartition("@")[0]:
        raise SettingError(
            "--broker: everybody on this machine can read a password that stands on the command line; "
            "put it into SFI_MQTT_PASSWORD or --password-file"
        )
    password = options.read_text(password_file).strip() if password_file else None
    return Broker.of(url, password, Tls(ca, cert, key) if ca or cert or key else None)


def _reach(broker: Broker) -> None:
    """Connect once: what is wrong with a broker is told before a model is loaded for minutes.

    Raises:
        ServiceError: it cannot be reached.
    """
    from sfi_mqtt.backoff import Backoff
    from sfi_mqtt.connection import Connection
    from sfi_mqtt.source import Source

    tried = Connection(broker, "try", Source(), Backoff(), gives_up=True)
    tried.start()
    try:
        while not tried.was_connected:
            tried.check()
            time.sleep(0.02)
    finally:
        tried.close(2.0)


@contextmanager
def _stopped() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one ends the process as usual."""
    stopped = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _: object) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
