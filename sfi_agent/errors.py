"""Every error sfi-agent raises on purpose.

::

    SFIError
    ├── ModelError          a model that cannot be found, loaded or served
    ├── PluginError         a plugin that breaks its contract
    ├── SettingError        a name or value that is not allowed
    │   ├── UnknownNameError    ... and the ones that are
    │   └── GrammarError        ... because it is a grammar that cannot be followed
    ├── PromptError         a prompt that cannot be run as given
    │   ├── PromptTooLongError  ... because it exceeds the model's window
    │   └── RotaryLimitError    ... because its answer would cross a change of rotary frequencies
    ├── PoolFullError       tokens for whose keys and values there is no room now
    ├── TurnTimeoutError    a turn that outlived its deadline
    ├── ServiceError        a runtime elsewhere that cannot be reached, or refuses
    └── SessionError        a stored session that cannot be written, read or used here
        ├── SessionNotFoundError   ... because there is none of that id
        ├── SessionBusyError       ... because another process has it open
        ├── SessionExistsError     ... because the id it should get is taken
        ├── SessionCorruptError    ... because its files are not what was written
        ├── SessionMismatchError   ... because it is of another model, dtype or format
        └── SessionNotSavedError   ... because the disk took less than all of it

The message of each is one line: what was given, what is allowed, how to mend it.

Whatever else a plugin raises stays what it is, with a note that says which selector or boundary detector it
came from. The command line prints both as one line; ``python -X dev -m sfi_agent`` shows the traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SFIError(Exception):
    """Base of every error of sfi-agent; the command line prints its message as one line."""


class ModelError(SFIError):
    """A model cannot be found, loaded or served."""


class PluginError(SFIError):
    """A plugin breaks its contract; the message names it or its class, a note what the policy names."""


class SettingError(SFIError, ValueError):
    """A setting has a value that is not allowed."""


class UnknownNameError(SettingError):
    """A name that is not registered; the message lists the valid ones."""

    def __init__(self, kind: str, given: str, known: Iterable[str], note: str = "") -> None:
        names = sorted(known)
        close = difflib.get_close_matches(given, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(names) or "none"
        super().__init__(f"unknown {kind} {given!r}; known: {listed}.{hint}{note}")
        self.given = given
        self.known = names


class GrammarError(SettingError):
    """A grammar cannot be compiled or followed."""


class PromptError(SFIError, ValueError):
    """A prompt cannot be run as given."""


class PromptTooLongError(PromptError):
    """A prompt and its answer do not fit the model's window."""

    def __init__(self, prompt_tokens: int, window: int, room: int) -> None:
        shorter, fewer = window - room, window - prompt_tokens
        ways = [f"shorten the prompt to {shorter} tokens"] if shorter > 0 else []
        ways += [f"ask for at most {fewer} new tokens"] if fewer > 0 else []
        super().__init__(
            f"the prompt has {prompt_tokens} tokens and {room} must stay free for the answer, but the "
            f"model's window is {window}; {' or '.join(ways) or 'shorten both of them'}"
        )


class RotaryLimitError(PromptError):
    """A prompt and its answer lie on two sides of a length where the rotary frequencies change."""

    def __init__(self, prompt_tokens: int, limit: int, room: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens and {room} must stay free for the answer, but past "
            f"{limit} tokens this model's rotary frequencies change and all of it would have to be read "
            f"again; keep the two within {limit} tokens, or give a prompt of more than {limit}"
        )


class PoolFullError(SFIError):
    """The memory for keys and values has no room for these tokens now.

    Args:
        wanted, free, all: tokens that were asked for, that would fit now, and that fit in all.
    """

    def __init__(self, wanted: int, free: int, all: int) -> None:
        super().__init__(
            f"no room for the keys and values of {wanted} more tokens: {free} of {all} are free; end or drop "
            "other sessions, or give the runtime more memory for them (kv_bytes)"
        )


class TurnTimeoutError(SFIError, TimeoutError):
    """A turn outlived its deadline; the session keeps what was generated."""


class ServiceError(SFIError):
    """A runtime elsewhere cannot be reached, or refuses a request for reasons of its own."""


class SessionError(SFIError):
    """A stored session cannot be written, read or used here; nothing on disk was changed."""


class SessionNotFoundError(SessionError):
    """No session of that id is stored."""


class SessionBusyError(SessionError):
    """Another process, or another runtime of this one, has the session open."""


class SessionExistsError(SessionError):
    """A session of that id is stored already."""


class SessionCorruptError(SessionError):
    """A file of a stored session is missing, cut or changed; the session is refused as a whole."""


class SessionMismatchError(SessionError):
    """A stored session is of another model, tokenizer, dtype or format; the message says which."""


class SessionNotSavedError(SessionError):
    """A session could not be written, the disk being full for one; what was stored before is whole."""
