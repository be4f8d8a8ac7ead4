"""An agent's session as both models are given it: plain messages, of which each call sends more."""

from __future__ import annotations

CALLS, TOKENS = 6, 32
"""Calls of the model, and tokens that each may generate."""
TOPICS = ("salt", "timber", "wool", "grain", "tea", "copper")


def requests(calls: int) -> list[list[tuple[str, str]]]:
    """Role and content of every message, call by call; what the model said is written already."""
    told, sent = [("user", "Look up what the warehouse holds, one thing after the other.")], []
    for number in range(calls):
        sent.append(list(told))
        topic = TOPICS[number % len(TOPICS)]
        said = f'<tool_call>\n{{"name": "look_up", "arguments": {{"item": "{topic}"}}}}\n</tool_call>'
        rows = "\n".join(
            f"{topic} lot {lot}: {17 * lot + number} sacks, {3 * lot + 2} crowns each, pier {1 + lot % 9}"
            for lot in range(1, 25)
        )
        told += [("assistant", said), ("user", f"<tool_response>\n{rows}\n</tool_response>")]
    return sent
