"""Messages for a template that knows no tools."""

from __future__ import annotations

import pytest

from sfi_agent.errors import PromptError
from sfi_agent.tools import with_tools


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"content": "Hello"}, "a message has no role"),
        ({"role": "assistant", "tool_calls": [{}]}, r"a call in tool_calls must be .*\(given \{\}\)"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "add"}}]}, "must be .*'arguments'"),
        ({"role": "assistant", "tool_calls": ["add"]}, r"must be .*\(given 'add'\)"),
    ],
)
def test_a_message_that_is_none_is_refused_in_one_line(message, says) -> None:
    with pytest.raises(PromptError, match=says) as said:
        with_tools([message], [])
    assert "\n" not in str(said.value)
