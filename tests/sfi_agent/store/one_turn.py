"""One turn of a stored session in its own process: arguments FOLDER TURN, the history on stdin."""

from __future__ import annotations

import json
import sys

from tests.sfi_agent.conftest import Tiny
from tests.sfi_agent.store.test_resume import Script, open_runtime


def main(folder: str, turn: int) -> None:
    tiny = Tiny()
    script = Script(tiny, [tiny.policy("sfi", selector="h2o")] * (turn + 1))
    with open_runtime(tiny, folder) as runtime:
        result, history = script.turn(runtime, turn, json.load(sys.stdin))
    print(json.dumps({"tokens": result.token_ids, "reused": result.reused_tokens, "history": history}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
