"""The page of a trace that still grows, served on this machine."""

from __future__ import annotations

import json
import threading
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import token_urlsafe
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from sfi_agent.errors import SettingError
from sfi_agent.trace.model import Trace
from sfi_agent.trace.page import render
from sfi_agent.trace.recorder import Recorder

LISTS = ("prompt", "tokens", "steps", "memories")


class LiveView:
    """Serves what a recorder gathers, to this machine alone; a context manager.

    Args:
        recorder: what is shown.
        port: 0: any that is free.

    Attributes:
        url: where the page is. It has a secret, for every user of this machine can reach the port.

    Raises:
        SettingError: bokeh is not installed, or the port cannot be used.
    """

    def __init__(self, recorder: Recorder, port: int = 0) -> None:
        secret, page = token_urlsafe(16), render({"live": True}, "").encode()
        handler = partial(_Handler, recorder=recorder, root=f"/{secret}/", page=page)
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except (OSError, OverflowError) as error:
            raise SettingError(
                f"port {port} cannot be used: {error}; name another, or 0 for a free one"
            ) from None
        self.url = f"http://127.0.0.1:{self._server.server_port}/{secret}/"
        self._thread = threading.Thread(target=self._server.serve_forever, name="trace", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, *arguments: Any, recorder: Recorder, root: str, page: bytes) -> None:
        self._recorder, self._root, self._page = recorder, root, page
        super().__init__(*arguments)

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if asked.path == self._root:
            self._send(self._page, "text/html; charset=utf-8")
        elif asked.path == f"{self._root}rest":
            fields = {name: values[-1] for name, values in parse_qs(asked.query).items()}
            self._send(json.dumps(rest(self._recorder.trace, fields)).encode(), "application/json")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the terminal belongs to the command."""


def rest(trace: Trace, have: dict[str, str]) -> dict[str, Any]:
    """What a page lacks of a turn.

    Args:
        trace: as it is now.
        have: ``turn``, the number of the one wanted (none: the latest), ``open``, of the one that the page
            has, and how many ``tokens``, ``steps``, ``memories`` and ``prompt`` tokens of it it has.

    Returns:
        ``turn``, its number, counted from the first there ever was (None: there is none yet); ``first``,
        that of the first of the ``labels``; and ``rest``, the turn less what the page has.
    """
    first, turns = trace.left_out, trace.turns
    if not turns:
        return {"turn": None}
    wanted = _number(have, "turn", first + len(turns) - 1)
    number = min(max(wanted, first), first + len(turns) - 1)
    turn = turns[number - first]
    if _number(have, "open", -1) == number:
        lacking = {name: getattr(turn, name)[_number(have, name, 0) :] for name in LISTS}
        turn = turn.model_copy(update=lacking)
    labels = [f"{each.runtime} {each.session} · turn {each.turn}".strip() for each in turns]
    return {
        "turn": number,
        "first": first,
        "labels": labels,
        "model": trace.model,
        "rest": turn.model_dump(mode="json"),
    }


def _number(have: dict[str, str], name: str, default: int) -> int:
    given = have.get(name, "")
    return int(given) if given.isascii() and given.isdecimal() else default
