"""``sfi-agent sessions``: what a folder of sessions holds, and what can be done with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfi_agent.cli import options
from sfi_agent.cli.options import out
from sfi_agent.environment import expanded
from sfi_agent.errors import SettingError
from sfi_agent.printable import printable

if TYPE_CHECKING:
    from sfi_agent.store import SessionInfo, SessionStore

app = typer.Typer(help="List and manage the sessions in a folder.", no_args_is_help=True)

Store = Annotated[Path, typer.Option(help="Folder of the sessions.")]
Id = Annotated[str, typer.Argument(help="Id of the session.")]


@app.command("list")
def list_(store: Store, json: options.Json = False) -> None:
    """List every session, the latest first."""
    if not expanded(store).is_dir():
        raise SettingError(f"--store {store} is no folder; name one with sessions in it")
    found = _store(store).list()
    if json:
        options.print_json({"sessions": [vars(info) for info in found]})
        return
    for info in found:
        _print(f"{info.id}: {info.problem}" if info.problem else _line(info))
    if not found:
        _print(f"no sessions in {store}")


@app.command("inspect")
def inspect(id: Id, store: Store, json: options.Json = False) -> None:
    """Describe a session and check every byte of it."""
    info = _store(store).inspect(id)
    if json:
        options.print_json(info)
        return
    _print(_line(info))
    _print(f"{_count(info.files, 'file')}, all whole")
    if info.lost:
        _print(f"begins anew when loaded: {info.lost}")


@app.command("fork")
def fork(
    id: Id,
    new: Annotated[str, typer.Argument(help="Id of the copy.")],
    store: Store,
    json: options.Json = False,
) -> None:
    """Store a session a second time; where the file system has links it takes no room."""
    _done(_store(store).fork(id, new), f"{id} is stored as {new} as well", json)


@app.command("export")
def export(
    id: Id,
    file: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    store: Store,
    json: options.Json = False,
) -> None:
    """Write a session to one file, for another machine."""
    _done(_store(store).export(id, file), f"{id} is in {file}, readable by you only", json)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `export` wrote.")],
    store: Store,
    id: Annotated[str | None, typer.Option(help="Another id than the one it was exported with.")] = None,
    json: options.Json = False,
) -> None:
    """Store an exported session."""
    if file.is_dir():
        raise SettingError(f"{file} is a folder; name the file that `sfi-agent sessions export` wrote")
    info = _store(store).import_(file, id)
    _done(info, f"{info.id} is stored", json)


@app.command("delete")
def delete(id: Id, store: Store, json: options.Json = False) -> None:
    """Remove a session and every file of it."""
    _store(store).delete(id)
    _done({"deleted": id}, f"{id} is deleted", json)


def _store(folder: Path) -> SessionStore:
    options.check_store(folder)
    from sfi_agent.store import SessionStore

    return SessionStore(folder)


def _done(done: SessionInfo | dict[str, str], line: str, json: bool) -> None:
    if json:
        options.print_json(done)
    else:
        _print(line)


def _line(info: SessionInfo) -> str:
    how = f"{info.mode} with {info.selector}, " if info.mode else ""
    held = f"{_count(info.turns, 'turn')}, {_count(info.tokens, 'token')}, {info.bytes / 1e6:.1f} MB"
    return f"{info.id}: {held}, {how}{info.model} in {info.dtype}, saved {info.saved}"


def _count(number: int, of: str) -> str:
    return f"{number:,} {of}{'s' * (number != 1)}"


def _print(line: str) -> None:
    """Print a line in which there may be anybody's id."""
    out.print(printable(" ".join(line.split())), highlight=False, soft_wrap=True, markup=False)
