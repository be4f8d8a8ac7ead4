"""Steps that begin before the tokens of those before them were looked at.

What a row reads next is, mostly, the token that its step finds most likely, and the device knows that first.
So while the rows of a lane go on as they were, their next step is launched behind the one under way, and the
host does its work (text, boundaries, stop tokens, events) meanwhile. Where that shows that a row does
something else next (a slow step, or nothing), its share of the step under way is not used: nothing of it was
committed, and its keys and values lie where the row's real ones will be written.

A slow step's row chooses its memory anew behind it, by what the device knows by then, so that the row is part
of the next step, too. Where a slow step is known to come whatever the token is, it is launched as one, and so
is the pass that verifies drafts, behind the last of the steps that make them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sfi_agent.errors import PoolFullError
from sfi_agent.runtime.asked import RowAsk
from sfi_agent.runtime.intake import Intake
from sfi_agent.runtime.job import Job
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.remembered import Remembered
from sfi_agent.runtime.replay import Launched, Replayer
from sfi_agent.runtime.step import Outcome, Work

log = logging.getLogger(__name__)

DEVICES = frozenset({"cuda"})
"""Where a step runs while the host goes on."""


class _Flight:
    """A step under way, and what each of its rows was taken to be at.

    Attributes:
        launched: the step.
        committed: places of rows whose share was, before the step is done.
    """

    def __init__(self, launched: Launched) -> None:
        self.launched = launched
        self.committed: set[int] = set()
        self._memories: list[Remembered | None] = [ask.memory for ask in launched.asks]
        self._tokens = [ask.work.tokens for ask in launched.asks]
        self._pages = [_pages(ask) for ask in launched.asks]

    def learn(self, found: dict[int, Outcome]) -> None:
        """What the step before it found, by place: the tokens that rows of this one read."""
        for index, ask in enumerate(self.launched.asks):
            if ask.follows is not None:
                best = found[ask.follows].best
                assert best is not None
                self._tokens[index] = *ask.work.tokens[:-1], *best

    def right(self, jobs: Sequence[Job]) -> list[int]:
        """The places of rows whose turns ask for just what was launched, now that they know the step before.

        The step ran on a guess: that a row goes on with the most likely token, as it did before. A row that
        instead ended, came to a boundary or was cancelled is left out; its share is not committed, and its
        next step writes over it.
        """
        active = {id(job) for job in jobs}
        asks = enumerate(self.launched.asks)
        return [index for index, ask in asks if id(ask.job) in active and self._is_right(index, ask)]

    def choose(self, index: int) -> RowAsk | None:
        """Have a slow step's row choose its memory behind it; the fast step that follows, if one can.

        What the choice reads is there by then, and the row makes it whatever the step finds. One that fails
        is made again by the turn, where its error is told.
        """
        ask = self.launched.asks[index]
        ask.row.commit(len(ask.work.tokens), fast=False)
        self.committed.add(index)
        try:
            ask.job.turn.choice.early()
        except Exception as error:  # a plugin's own
            log.debug("a memory was not chosen ahead: %s", error)
            ask.row.memory = None
        work = Work(ask.work.tokens[-1:], fast=True, draw=ask.work.draw)
        follower = RowAsk(ask.job, work, ask.row.kv.length, follows=index)
        return follower if follower.memory else None

    def undo(self) -> None:
        """Have rows as they were before the step, which failed and will be tried again."""
        for ask in self.launched.asks:
            ask.job.turn.rewind()

    def _is_right(self, index: int, ask: RowAsk) -> bool:
        work = ask.job.turn.work
        return (
            work is not None
            and work.prefill == ask.work.prefill
            and work.tokens == self._tokens[index]
            and work.fast == ask.work.fast
            and ask.row.kv.length == ask.start
            and ask.memory is self._memories[index]
            and _pages(ask) == self._pages[index]  # else what the step writes may be in another row's page
        )


class Ahead:
    """Runs steps of one lane, the next one under way while a step's outcome is used.

    Args:
        replayer: of the lane.
        intake: chooses which prompts are read.
    """

    def __init__(self, replayer: Replayer, intake: Intake) -> None:
        self._replayer, self._intake = replayer, intake
        self._flight: _Flight | None = None

    def step(self, jobs: Sequence[Job], waiting: Sequence[Job] = ()) -> list[tuple[Job, Outcome]]:
        """Outcomes of the jobs whose steps are done; none where this does not serve.

        What fails here is left alone: the same step, run by itself, fails again where its error can be told.

        Args:
            jobs: that are due.
            waiting: others, whose drafts are verified with theirs.
        """
        flight, self._flight = self._flight, None
        try:
            right = flight.right(jobs) if flight else []
            if not right:
                if not (asks := self._asked(jobs)):
                    return []
                flight = _Flight(self._replayer.launch(asks))
                right = list(range(len(flight.launched.asks)))
            assert flight
            following = self._following(flight, right, jobs, waiting)
            outcomes = self._replayer.read(flight.launched, right, flight.committed)
        except Exception as error:
            log.debug("a step did not run ahead: %s", error)
            if flight:
                flight.undo()
            return []
        found = dict(zip(right, outcomes, strict=True))
        if following:
            following.learn(found)
        self._flight = following
        return [(flight.launched.asks[index].job, outcome) for index, outcome in found.items()]

    def begin(self, jobs: Sequence[Job]) -> None:
        """Have a step under way, of these jobs if none is: it runs while callers are told of the last one."""
        if self._flight and all(ask.job.turn.work is None for ask in self._flight.launched.asks):
            self._flight = None  # nobody will ask for it
        if self._flight is None and (asks := self._asked(jobs)):
            try:
                launched = self._replayer.follow(asks)
            except Exception as error:  # as in ``step``
                log.debug("a step did not begin: %s", error)
            else:
                self._flight = _Flight(launched) if launched else None

    def _asked(self, jobs: Sequence[Job]) -> list[RowAsk]:
        """The next step of these jobs; nothing where it is not one of this kind."""
        asks = self._intake.taken([RowAsk.of(job) for job in jobs])
        return asks if self._one_lane(asks) else []

    def _following(
        self, flight: _Flight, right: list[int], jobs: Sequence[Job], waiting: Sequence[Job]
    ) -> _Flight | None:
        """The step behind this one: rows that go on or verify, and those that this one has not."""
        now = {index: RowAsk.of(flight.launched.asks[index].job) for index in right}
        under_way = {id(ask.job) for ask in now.values()}
        drafts = {index: ask for index, ask in now.items() if ask.work.drafted}
        asks: list[RowAsk] = []
        if drafts and not any(ask.work.goes_on and not ask.work.spare for ask in drafts.values()):
            asks = [_verifying(ask, index) for index, ask in drafts.items()]
            asks += [RowAsk.of(job) for job in waiting]
            now = {index: ask for index, ask in now.items() if index not in drafts}
        asks += [_next(ask, index) for index, ask in now.items() if ask.work.goes_on or ask.work.then]
        refreshed = [flight.choose(index) for index, ask in now.items() if ask.work.refreshes]
        asks += [ask for ask in refreshed if ask]
        if not asks:
            return None
        asks += [RowAsk.of(job) for job in jobs if id(job) not in under_way and job.turn.work]
        asks = self._intake.taken(asks)
        if not self._one_lane(asks):
            return None
        try:
            launched = self._replayer.follow(asks, flight.launched)
        except PoolFullError:  # rows that go on may yet end
            return None
        return _Flight(launched) if launched else None

    def _one_lane(self, asks: Sequence[RowAsk]) -> bool:
        """Whether all of these are of rows of one lane that need to know tokens alone."""
        if any(ask.job.turn.needs_logits for ask in asks):
            return False
        lanes, rest = self._replayer.lanes([ask.job for ask in asks], [ask.work for ask in asks])
        return len(lanes) == 1 and not rest


def _pages(ask: RowAsk) -> int:
    """Which version of its row's pages there is."""
    kv = ask.row.kv
    assert isinstance(kv, PagedCache)
    return kv.version


def _next(ask: RowAsk, follows: int) -> RowAsk:
    """What a row that goes on asks of the step behind this one, in which it has the place ``follows``.

    Behind the last of a prompt it reads one token, as behind any other step.
    """
    work, start = ask.work, ask.start + len(ask.work.tokens)
    if work.then:  # all of its tokens are known
        return RowAsk(ask.job, work.then, start)
    work = work._replace(tokens=work.tokens[-1:], prefill=False)
    if work.slow_next:
        work = work._replace(fast=False, goes_on=False, slow_next=False, refreshes=True)
    return RowAsk(ask.job, work, start, follows)


def _verifying(ask: RowAsk, follows: int) -> RowAsk:
    """What a row whose draft is done with the step in which it has the place ``follows`` asks behind that."""
    read = *ask.work.drafted, *ask.work.tokens[-1:]
    work = Work(read, wanted=len(read), draw=ask.work.draw)
    return RowAsk(ask.job, work, ask.start + 1 - len(ask.work.drafted), follows)
