"""One turn on the terminal: progress while the prompt is read, then the answer as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sfi_agent.cli import options
from sfi_agent.cli.options import err, out

if TYPE_CHECKING:
    from sfi_agent.policy import Policy, Sampling
    from sfi_agent.runtime.result import TurnResult
    from sfi_agent.runtime.runtime import Runtime


def answer(
    runtime: Runtime,
    ids: Sequence[int],
    policy: Policy,
    sampling: Sampling,
    *,
    session: str | None,
    quiet: bool,
    stoppable: bool = False,
) -> TurnResult:
    """Run a turn to its end, and unless ``quiet`` print its text.

    Args:
        runtime, ids, policy, sampling, session: as for :meth:`Runtime.stream`.
        quiet: print nothing on stdout.
        stoppable: Ctrl-C ends the turn instead of the command.
    """
    with ExitStack() as bar:  # closed at the first chunk: what is printed beside it would be erased
        on_progress = bar.enter_context(options.prefill_progress(len(ids))) if err.is_terminal else None
        with runtime.stream(
            ids, policy=policy, sampling=sampling, session=session, on_progress=on_progress
        ) as stream:
            begun = False
            try:
                for chunk in stream:
                    bar.close()
                    if not quiet:
                        begun = True
                        out.out(chunk.text, end="", highlight=False)
            except KeyboardInterrupt:
                if not stoppable:
                    raise
            finally:
                bar.close()
                if begun:
                    out.out("")
    return stream.result
