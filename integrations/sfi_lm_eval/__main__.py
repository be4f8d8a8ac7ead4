"""``python -m sfi_lm_eval run --model sfi ...``: the harness's own command, which then knows the model."""

from __future__ import annotations

import sys

from lm_eval.__main__ import cli_evaluate

import sfi_lm_eval  # noqa: F401 (registers the model)
from sfi_agent.errors import SFIError

try:
    cli_evaluate()
except SFIError as error:
    sys.exit(f"error: {' '.join(str(error).split())}")
