"""The public face of the engine: a model, its sessions, and turns on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import torch

from sfi_agent.errors import SettingError
from sfi_agent.events import RuntimeStarted
from sfi_agent.grammar.guidance import Grammars
from sfi_agent.models.architecture import Architecture
from sfi_agent.models.load import Loaded, load
from sfi_agent.observers import Observers
from sfi_agent.policy import Policy, Sampling
from sfi_agent.progress import Progress
from sfi_agent.registry import Registry, default_registry
from sfi_agent.runtime import attention, prompts
from sfi_agent.runtime.batcher import Batcher
from sfi_agent.runtime.engine import Engine
from sfi_agent.runtime.limits import Limits
from sfi_agent.runtime.parts import Parts, PartsMaker
from sfi_agent.runtime.replay import Replayer
from sfi_agent.runtime.request import Request
from sfi_agent.runtime.result import TurnResult
from sfi_agent.runtime.sharing import pool_for
from sfi_agent.runtime.stats import MoveCounter, SessionStats
from sfi_agent.runtime.stream import Streams, TurnStream
from sfi_agent.runtime.table import SessionTable
from sfi_agent.store.keeper import Keeper
from sfi_agent.store.store import SessionStore
from sfi_agent.tools.dialect import Ask, Dialect
from sfi_agent.vocabulary import TokenizerVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Runtime:
    """A loaded model that decodes slow-fast.

    :meth:`load` makes one, :meth:`encode` turns messages into token ids, and :meth:`generate` answers them,
    or :meth:`stream`, piece by piece. A turn is given the whole conversation; if it names a ``session``, what
    that holds of it is not computed again.

    Every method may be called from any thread: concurrent turns share model steps, and turns of one
    session run one after another. A context manager that closes the runtime.

    Attributes:
        name: the model as it was asked for.
        model, tokenizer: transformers' own; the model's attention is this runtime's until :meth:`close`, or
            that of others which it serves, too.
        window: tokens that prompt and answer may have together.
        policy: used where a turn names none.
        registry: the plugins that it knows.
        observers: who hears its events, and those of no other runtime; plugins of the registry hear them as
            well.
        sessions: conversations in memory, by id: a mapping to read. Each has its ``id``, its ``turns``, the
            ``tokens`` and the ``policy`` of the last one, and the ``notes`` that :meth:`set_notes` left.
        store: where they are kept on disk; None: nowhere. A session that is asked for and stored is read
            from there, and written after each of its turns, in the background. It is this runtime's until
            :meth:`drop_session` or :meth:`close`.
        deterministic: as given to :meth:`load`.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        policy: Policy | str | None = None,
        registry: Registry | None = None,
        store: SessionStore | str | Path | None = None,
        limits: Limits | None = None,
        kv_bytes: int | None = None,
        deterministic: bool = False,
    ) -> None:
        self.name, self.model, self.tokenizer = loaded.name, loaded.model, loaded.tokenizer
        self.architecture = Architecture.of(loaded.model)
        self.window = self.architecture.window
        self.registry = registry or default_registry()
        self.observers = Observers(above=self.registry.observers)
        self.policy = self._chosen(policy or Policy())
        self.stop_tokens = _stop_tokens(loaded.model, loaded.tokenizer)
        vocabulary = TokenizerVocabulary(loaded.tokenizer)
        self._maker = PartsMaker(self.registry, vocabulary, self.device, timed=not deterministic)
        self._grammars = Grammars(loaded.tokenizer, self._vocabulary_size(), self.stop_tokens)
        self.store = SessionStore(store) if isinstance(store, str | Path) else store
        moves = MoveCounter(self.observers.emit)
        keeper = Keeper.of(self, self.store, moves.emit) if self.store else None
        token_bytes = self.architecture.token_bytes(loaded.model)
        self._attention = attention.Switch(self.model)
        with ExitStack() as undone:
            undone.callback(self._attention.close)
            self.pool = pool_for(self.model, self._maker.kernel("auto"), self.window, kv_bytes)
            undone.pop_all()
        model = self.model  # what a runtime has does not know it: one that nobody has is gone at once
        self.sessions = SessionTable(keeper, limits, token_bytes, lambda: model.device, moves, self.pool)
        # Past a rotary limit a call's longest position decides its frequencies: no lane can.
        lanes = self.pool and self.architecture.rotary_limit is None
        replayer = Replayer(self.model, self.pool, self.window) if self.pool and lanes else None
        self.deterministic = deterministic
        self._streams = Streams()
        self._batcher = Batcher(Engine(self.model, self.architecture, replayer, alone=deterministic).step)
        told = self.policy.model_dump(mode="json")
        self.observers.emit(RuntimeStarted(model=self.name, policy=told, window=self.window))

    @classmethod
    def load(
        cls,
        model: str | Path | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        device: str = "auto",
        dtype: str = "auto",
        policy: Policy | str | None = None,
        registry: Registry | None = None,
        store: SessionStore | str | Path | None = None,
        limits: Limits | None = None,
        kv_bytes: int | None = None,
        deterministic: bool = False,
    ) -> Runtime:
        """Load a model and serve it.

        Args:
            model: ``smollm2-135m`` (embedded), a folder, a ``.gguf`` file, a hub name, or a model object.
            tokenizer: needed beside a model object; replaces the model's own otherwise.
            device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, ``cuda:1``, ...
            dtype: ``auto`` (the checkpoint's), ``bfloat16``, ``float16`` or ``float32``.
            policy: used where a turn names none: a Policy, or the name of one; None: ``Policy()``.
            registry: knows the plugins; None: those that are installed.
            store: folder in which sessions outlive the process; None: they do not.
            limits: how much of the sessions may stay in memory; None: all.
            kv_bytes: set aside for keys and values, in pages that sessions share and idle ones make room in.
                None: on a CUDA device most of what is free; elsewhere nothing, and each session has its own.
            deterministic: a turn's tokens, keys and values are the same, bit for bit, whatever else runs.
                It shares no model call and no beginning with others, and its drafts do not follow measured
                times. Each step then advances one turn after another.

        Raises:
            ModelError: the model cannot be found or loaded, or has an architecture that is not served.
            SettingError: a device, a dtype, a policy's name or a size is not allowed.
        """
        loaded = load(model, tokenizer=tokenizer, device=device, dtype=dtype)
        return cls(
            loaded,
            policy=policy,
            registry=registry,
            store=store,
            limits=limits,
            kv_bytes=kv_bytes,
            deterministic=deterministic,
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @cached_property
    def dialect(self) -> Dialect:
        """How the model is told of tools and writes calls."""
        return Dialect(self.tokenizer)

    def encode(
        self,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        raw: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Token ids of a prompt.

        Args:
            prompt: messages (``{"role": ..., "content": ...}``) for the chat template; or text, which
                is one user message, or with ``raw`` the prompt itself.
            raw: use no chat template.
            tools: that the model may call, as the chat template wants them (OpenAI's form); a template
                that knows no tools ignores them (see :mod:`sfi_agent.tools`).

        Raises:
            PromptError: it is empty, the model has no chat template, or the template refuses it.
        """
        return prompts.encode(self.tokenizer, self.name, prompt, raw=raw, tools=tools)

    def stream(
        self,
        prompt_ids: Sequence[int],
        *,
        policy: Policy | str | None = None,
        sampling: Sampling | None = None,
        ask: Ask | None = None,
        session: str | None = None,
        timeout: float | None = None,
        on_progress: Progress | None = None,
    ) -> TurnStream:
        """Start a turn.

        Args:
            prompt_ids: the whole conversation so far; what the session already holds is not read again.
            policy: how to decode, or the name of such a policy; default the runtime's.
            sampling: how to draw tokens and when to stop; default greedy.
            ask: tools and schema, a :class:`sfi_agent.tools.Ask`, which the prompt has told of: the answer
                follows the grammar that they need, and each call in it is told as an event.
            session: id of the conversation to continue or begin; None: forget it afterwards.
            timeout: seconds, above 0, that the turn may take, with those that it waits for an earlier turn of
                its session; None: no limit.
            on_progress: called with (tokens read, prompt tokens) after every prefill chunk.

        Raises:
            PromptError: empty, too long, or with ids that the model does not have; iterating, when the
                turn can never fit the runtime's limits.
            SettingError: a value is not allowed, the policy names something that is not registered, or not
                here, or the grammar cannot be used.
            SessionError: iterating, when the session is stored and cannot be used here.
            TurnTimeoutError: iterating, when ``timeout`` is over; the session keeps what was generated.
            SFIError: the runtime is closed; or, iterating, when this thread has another stream of the session
                open and gives no timeout.
        """
        self._streams.check_open()
        policy, sampling = self._chosen(policy or self.policy), sampling or Sampling()
        _check("sampling", sampling, Sampling, "a Sampling")
        _check("ask", ask, Ask | None, "an Ask")
        _check("session", session, str | None, "a string")
        _check("on_progress", on_progress, Callable | None, "a function")
        if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
            raise SettingError(f"timeout: must be a number of seconds above 0 (given {timeout!r})")
        prompt = prompts.checked(prompt_ids, self._vocabulary_size())
        if ask is not None:
            sampling = self.dialect.sampling(sampling, ask, prompt)
        room = prompts.room(len(prompt), sampling, self.architecture)
        if self.pool and sampling.max_new_tokens is None:
            room = max(1, min(room, self.pool.tokens - len(prompt)))
        parts = self.parts(policy)
        constraint = self._grammars.constraint(sampling.grammar) if sampling.grammar else None
        request = Request(
            self,
            self._batcher,
            prompt,
            policy,
            sampling,
            parts,
            room=room,
            ask=ask,
            session=session,
            timeout=timeout,
            constraint=constraint,
            on_progress=on_progress,
        )
        return self._streams.add(TurnStream(request.chunks(), request.result, request.hands))

    def generate(self, prompt_ids: Sequence[int], **options: Any) -> TurnResult:
        """Answer ``prompt_ids`` to the end; ``options`` and errors are those of :meth:`stream`."""
        with self.stream(prompt_ids, **options) as stream:
            for _ in stream:
                pass
        return stream.result

    def fork(self, session: str, new: str, *, timeout: float | None = None) -> None:
        """Go on from one conversation in two: ``new`` answers whatever comes next as ``session`` would.

        Where keys and values are in pages (``kv_bytes``), both hold those that are full, and each writes its
        own from there on; otherwise ``new`` has a copy. Neither sees what the other reads or answers later.
        With a store ``new`` is saved, too.

        Args:
            session: id of a conversation that had a turn; one that is stored is read first.
            new: id that no session has.
            timeout: seconds to wait for a turn of ``session``, and for room.

        Raises:
            SettingError: there is no such session.
            SessionExistsError: there is one of the new id, in memory or stored.
            SessionError: ``session`` is stored and cannot be used here.
            PromptError: the two do not fit the runtime's limits together.
            PluginError: its selector keeps what cannot be copied.
            TurnTimeoutError: a turn still ran, or other turns took the room.
        """
        self._streams.check_open()
        self.sessions.fork(session, new, partial(self.registry.create, "selector"), timeout)

    def drop_session(self, session: str) -> None:
        """Forget a conversation, ``session`` by its id; unknown ids are fine.

        What is stored of it stays stored.
        """
        self.sessions.drop(session)

    def notes(self, session: str, *, timeout: float | None = None) -> dict[str, Any]:
        """A copy of what callers keep with a conversation (its messages, say).

        Args:
            session: id of any conversation; one that is stored is read first.
            timeout: seconds to wait for a turn of it.

        Raises:
            SessionError: it is stored and cannot be used here.
            TurnTimeoutError: a turn still ran.
        """
        self._streams.check_open()
        return self.sessions.notes(session, timeout)

    def set_notes(self, session: str, notes: Mapping[str, Any], *, timeout: float | None = None) -> None:
        """Keep something with a conversation, in place of what was kept; it is stored when that is next.

        Args:
            session: id of any conversation, a new one too; one that is stored is read first.
            notes: JSON.
            timeout: seconds to wait for a turn of it.

        Raises:
            SettingError: they are no JSON.
            SessionError: the session is stored and cannot be used here.
            TurnTimeoutError: a turn still ran.
        """
        self._streams.check_open()
        self.sessions.set_notes(session, notes, timeout)

    def save(self, session: str, *, timeout: float | None = None) -> None:
        """Store a conversation and wait until it is on the disk.

        Args:
            session: its id; one that has left memory is there already.
            timeout: seconds to wait for a turn of it.

        Raises:
            SettingError: this runtime has no store, or there is no such session.
            SessionNotSavedError: it could not be written; what was stored before is whole.
            TurnTimeoutError: a turn still ran.
        """
        self._streams.check_open()
        self.sessions.save(session, timeout)

    def flush(self) -> None:
        """Wait until every session without a turn in progress is on the disk; nothing without a store.

        Raises:
            SessionNotSavedError: one could not be written; what was stored of it before is whole.
        """
        self.sessions.flush()

    def stats(self) -> SessionStats:
        """Where the sessions are, and what moving them has cost since the runtime began."""
        return self.sessions.stats()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """No turn steps inside this ``with`` block."""
        self._streams.check_open()
        with self._batcher.paused():
            yield

    @contextmanager
    def transformers(self) -> Iterator[PreTrainedModel]:
        """The model with its own attention for a ``with`` block, as ``model.generate`` needs.

        No turn of this runtime steps there.
        """
        with self.exclusive(), self._attention.lent() as model:
            yield model

    def close(self) -> None:
        """End every turn, store every session, forget it, and give the model its own attention back.

        Turns end between steps. Whoever iterates over one is told by an error; its session keeps what came.

        Raises:
            SessionNotSavedError: one could not be written; all the rest is done.
            SFIError: this thread is in a turn's step, in a callback of a turn or in ``exclusive``; nothing
                is done.
        """
        with self._batcher.paused():
            pass
        self._streams.check_outside()
        with ExitStack() as last:
            last.callback(self.sessions.close)
            last.callback(self._forget)
            self._streams.close()
            self.flush()

    def _forget(self) -> None:
        with self._batcher.paused():
            self.sessions.clear()
            self._attention.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _vocabulary_size(self) -> int:
        return len(cast(torch.Tensor, self.model.get_input_embeddings().weight))

    def _chosen(self, policy: Policy | str) -> Policy:
        """The policy, which may be given by its name."""
        if isinstance(policy, str):
            return self.registry.policy(policy)
        if not isinstance(policy, Policy):
            raise SettingError(f"policy: must be a Policy or the name of one (given {policy!r})")
        return policy

    def parts(self, policy: Policy) -> Parts:
        """The objects that ``policy`` names, made for one turn.

        Raises:
            SettingError: something is not registered, not allowed, or cannot run here.
        """
        return self._maker.parts(policy)


def _check(name: str, value: object, kinds: Any, described: str) -> None:
    if not isinstance(value, kinds):
        raise SettingError(f"{name}: must be {described} (given {value!r})")


def _stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that end a turn: the generation config's and the tokenizer's own."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = [configured] if isinstance(configured, int) else list(configured or [])
    return frozenset(id for id in [*ids, tokenizer.eos_token_id] if id is not None)
