"""The runtime as a model of lm-evaluation-harness: under dense attention it scores as the harness's own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip(
    "lm_eval", reason="lm-evaluation-harness is not installed: pip install 'sfi-agent[lm-eval]'"
)

import lm_eval
from lm_eval.api.instance import Instance

from sfi_agent import Policy
from sfi_agent.errors import SettingError, UnknownNameError
from sfi_lm_eval import SFILM

pytestmark = pytest.mark.filterwarnings("default")  # what the harness's dependencies warn of is not ours
SMALL = {"dense_below": 0, "recent": 6, "sink": 2, "min_gap": 0, "max_interval": 7, "budget": 24}


def evaluate(model: Any, tasks: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    """Results by task."""
    found = lm_eval.simple_evaluate(
        model=model, tasks=tasks, bootstrap_iters=0, log_samples=True, verbosity="ERROR", **options
    )
    assert found is not None
    return found


def responses(found: dict[str, Any], task: str) -> list[Any]:
    """What the model answered, document by document."""
    return [sample["resps"] for sample in sorted(found["samples"][task], key=lambda sample: sample["doc_id"])]


@pytest.fixture(scope="module")
def own(checkpoint: str, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """By the harness's own model class, over transformers."""
    arguments = {"pretrained": checkpoint, "dtype": "float32", "add_bos_token": False}
    return evaluate("hf", tasks, model_args=arguments, device="cpu", batch_size=1)


@pytest.mark.parametrize("mode", ["dense", "verified"])
def test_full_attention_answers_as_the_harness_does(
    checkpoint: str, tasks: list[dict[str, Any]], own: dict[str, Any], mode: str
) -> None:
    found = evaluate("sfi", tasks, model_args={"pretrained": checkpoint, "mode": mode, **SMALL})
    assert responses(found, "tiny_writing") == responses(own, "tiny_writing")
    for task in ("tiny_choice", "tiny_rolling"):
        ours, theirs = responses(found, task), responses(own, task)
        assert flat(ours) == pytest.approx(flat(theirs), rel=1e-4)
    for task, metrics in own["results"].items():
        assert numbers(found["results"][task]) == pytest.approx(numbers(metrics), rel=1e-4)


def test_a_policy_shows_in_every_kind_of_request(
    checkpoint: str, tasks: list[dict[str, Any]], own: dict[str, Any]
) -> None:
    arguments = ",".join(f"{name}={value}" for name, value in {"pretrained": checkpoint, **SMALL}.items())
    found = evaluate("sfi", tasks, model_args=arguments)
    for task in own["results"]:
        assert responses(found, task) != responses(own, task)


def flat(nested: Any) -> list[float]:
    """The numbers in nested lists, booleans included."""
    if isinstance(nested, list | tuple):
        return [number for item in nested for number in flat(item)]
    return [float({"True": 1, "False": 0}.get(nested, nested))]


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def test_a_policy_by_name_and_its_settings(checkpoint: str) -> None:
    named = SFILM(checkpoint, policy="balanced", budget=0.5, boundaries="newline+tool_call")
    assert named.policy.selector == "index"
    assert (named.policy.budget, named.policy.boundaries) == (0.5, ("newline", "tool_call"))
    given = SFILM(runtime=named.runtime, policy=Policy(budget=99))
    assert (given.runtime, given.policy.budget) == (named.runtime, 99)


def test_chats_go_through_the_template(checkpoint: str) -> None:
    model = SFILM(checkpoint)
    said = [{"role": "user", "content": "hi"}]
    assert model.apply_chat_template(said) == "<bos>user: hi\nassistant:"
    assert model.tok_encode("<bos>hi") == [0, *model.tok_encode("hi")]
    assert model.chat_template(True) == model.tokenizer.chat_template


def write(model: SFILM, text: str, **settings: Any) -> str:
    """The answer to one request of the kind ``generate_until``."""
    request = Instance("generate_until", {}, (text, settings), 0)
    return model.generate_until([request], disable_tqdm=True)[0]


def test_a_prompt_too_long_loses_its_beginning(checkpoint: str) -> None:
    model = SFILM(checkpoint, mode="dense")
    text = "abcdefghij" * 60
    kept = write(model, text[-500:], max_gen_toks=12)
    assert write(model, text, max_gen_toks=12) == kept
    assert write(model, text[-500:], max_gen_toks=12, until=[kept[3:5]]) == kept[:3]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"pretrained": "./nowhere"}, UnknownNameError),
        ({"budget": 7.5}, SettingError),
        ({"bugdet": 7}, UnknownNameError),
        ({"policy": "perfect"}, UnknownNameError),
    ],
)
def test_settings_that_are_wrong(checkpoint: str, settings: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        SFILM(**{"pretrained": checkpoint, **settings})


def test_a_generation_setting_that_is_unknown_is_named(checkpoint: str) -> None:
    with pytest.raises(UnknownNameError, match="num_beams"):
        write(SFILM(checkpoint), "hi", num_beams=4)


def test_the_command_knows_the_model(tmp_path: Any) -> None:
    command = [sys.executable, "-m", "sfi_lm_eval", "run", "--model", "sfi", "--tasks", "wikitext"]
    done = subprocess.run(
        [*command, "--model_args", "pretrained=./nowhere"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: unknown model './nowhere'")
