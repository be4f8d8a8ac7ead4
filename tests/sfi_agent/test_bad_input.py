"""Every mistake a user can make ends in one line of an SFIError that says what is allowed."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from pydantic import BaseModel, ValidationError
from transformers import AutoModelForCausalLM

from sfi_agent import Policy, Runtime, Sampling
from sfi_agent.errors import (
    ModelError,
    PromptError,
    PromptTooLongError,
    SettingError,
    SFIError,
    UnknownNameError,
)
from sfi_agent.policy import Grammar, parse_budget


def line(error: pytest.ExceptionInfo[SFIError]) -> str:
    assert "\n" not in str(error.value)
    assert len(str(error.value)) > 20
    return str(error.value)


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ({"mode": "sfy"}, ["dense", "sfi", "verified"]),
        ({"mode": None}, ["dense", "sfi", "verified"]),
        ({"mod": "sfi"}, ["mode", "budget", "selector"]),
        ({"budgets": 1}, ["budget"]),
    ],
)
def test_an_unknown_mode_or_setting_lists_the_known(settings, known):
    with pytest.raises(SettingError) as error:
        Policy.of(**settings)
    assert all(name in line(error) for name in known)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Policy, {"mode": "sfy"}), (Policy, {"modee": "sfi"}), (Policy, {"sink": -1}),
        (Policy, {"boundaries": "newline"}), (Sampling, {"max_new_tokens": 0}), (Grammar, {}),
        (Sampling, {"grammar": {"regex": 5}}),
    ],
)  # fmt: skip
def test_a_constructor_refuses_in_one_line(kind, settings):
    with pytest.raises(SettingError) as error:
        kind(**settings)
    assert all(name in line(error) for name in settings)


def test_within_another_model_pydantic_says_where_a_setting_is():
    class Asked(BaseModel):
        sampling: Sampling

    assert Asked.model_validate_json('{"sampling": {"stop": ["x"]}}').sampling == Sampling(stop=("x",))
    with pytest.raises(ValidationError) as error:
        Asked.model_validate_json('{"sampling": {"grammar": {"regex": 5}}}')
    assert error.value.errors()[0]["loc"] == ("sampling", "grammar", "regex")


@pytest.mark.parametrize("budget", [0, -1, 1.5, 0.0, -0.1, float("nan"), True, False, None, "all", [1]])
def test_a_budget_that_is_none(budget):
    with pytest.raises(SettingError, match="number of positions from 1 on, or a fraction") as error:
        Policy.of(budget=budget)
    assert repr(budget) in line(error)


@pytest.mark.parametrize(("budget", "length", "positions"), [(1, 9, 1), (1.0, 9, 9), (50, 9, 9), (0.5, 9, 4)])
def test_budgets(budget, length, positions):
    policy = Policy.of(budget=budget)
    assert type(policy.budget) is type(budget)
    assert policy.positions(length) == positions


@pytest.mark.parametrize("text", ["", "x", "0", "-3", "1.5", "0.0", "nan", "1e400", "0x10", "5%"])
def test_a_budget_as_typed(text):
    with pytest.raises(SettingError) as error:
        parse_budget(text)
    line(error)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -1}, {"temperature": "hot"}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": 0}, {"seed": -1},
        {"repetition_penalty": 0}, {"max_new_tokens": 0}, {"max_new_tokens": 1.5}, {"stops": ["a"]},
        {"stop": [""]}, {"stop": [1]}, {"stop": 5},
    ],
)  # fmt: skip
def test_sampling_settings(settings):
    with pytest.raises(SettingError) as error:
        Sampling.of(**settings)
    (name,) = settings
    assert name.rstrip("s") in line(error)


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ({"selector": "papr"}, ["paper", "recent", "snapkv", "top_mass"]),
        ({"boundaries": ("newline", "full_stop")}, ["newline", "punctuation", "tool_call"]),
        ({"kernel": "cuda"}, ["torch", "grouped"]),
        ({"selector": "paper", "selector_settings": {"captures": 3}}, ["captured", "power"]),
        ({"boundary_settings": {"newline": {}}}, ["tool_call"]),
        ({"boundary_settings": {"tool_call": {"brackets": 1}}}, ["delimiters", "json_braces"]),
        ({"selector": "paper", "selector_settings": {"captured": 0}}, ["captured"]),
        ({"selector": "paper", "selector_settings": {"captured": "x"}}, ["captured"]),
    ],
)
def test_an_unknown_name_in_a_policy_lists_the_known(tiny, shared, settings, known):
    with pytest.raises(SettingError) as error:
        shared.stream(tiny.prompt(9), policy=Policy.of(**settings))
    assert all(name in line(error) for name in known)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy": "fasst"}, "unknown policy 'fasst'; known: .*Did you mean 'fast'"),
        ({"policy": {"mode": "sfi"}}, "must be a Policy or the name of one"),
        ({"sampling": {"seed": 1}}, "must be a Sampling"),
        ({"timeout": -1}, "must be a number of seconds above 0"),
        ({"timeout": 0}, "must be a number of seconds above 0"),
        ({"timeout": "5"}, "must be a number of seconds above 0"),
    ],
    ids=str,
)
def test_options_of_a_turn(tiny, shared, options, said):
    with pytest.raises(SettingError, match=said) as error:
        shared.stream(tiny.prompt(9), **options)
    line(error)


def test_a_policy_may_be_named(tiny, shared):
    turn = shared.generate(tiny.prompt(9), policy="exact", sampling=tiny.sampling(2))
    assert turn.mode == shared.registry.policy("exact").mode != shared.policy.mode
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, policy="exact") as runtime:
        assert runtime.policy == shared.registry.policy("exact")


@pytest.mark.parametrize(
    ("name", "value"), [("session", 5), ("session", ["a"]), ("ask", "tools"), ("on_progress", 3)]
)
def test_a_turn_is_given_what_it_asks_for(tiny, shared, name, value):
    with pytest.raises(SettingError, match=f"^{name}: must be an? "):
        shared.stream(tiny.prompt(9), **{name: value})


def test_a_prompt_that_its_caller_changes_is_read_as_it_was_given(tiny, shared):
    given, sampling = tiny.prompt(9), tiny.sampling(4)
    expected = shared.generate(given, sampling=sampling).token_ids
    with shared.stream(given, sampling=sampling) as stream:
        given.append(10**9)
        assert [token for chunk in stream for token in chunk.token_ids] == list(expected)


def test_a_closed_runtime_says_so(tiny, runtime):
    runtime.close()
    with pytest.raises(SFIError, match="this runtime is closed"):
        runtime.generate(tiny.prompt(9))


class TestPrompts:
    @pytest.mark.parametrize("prompt", ["", [], None])
    def test_empty(self, shared, prompt):
        for raw in (True, False):
            with pytest.raises(PromptError, match="empty"):
                shared.encode(prompt, raw=raw)

    def test_half_a_character(self, shared):
        """Two halves are one; a half alone cannot be read, and is not worth losing a session for."""
        for given, read in (("caf\udce9", "caf\ufffd"), ("\ud83d\ude00\ud83d", "😀\ufffd")):
            assert shared.encode(given) == shared.encode(read)
            assert shared.encode(given, raw=True) == shared.encode(read, raw=True)

    def test_no_tokens(self, shared):
        with pytest.raises(PromptError, match="empty"):
            shared.stream([])

    @pytest.mark.parametrize("ids", [[5, 259], [-1, 5], [10**12]])
    def test_foreign_tokens(self, shared, ids):
        with pytest.raises(PromptError, match=r"outside 0 \.\.\. 258"):
            shared.stream(ids)

    @pytest.mark.parametrize("ids", ["hi", [1.5], ["a"], [[5, 6]], 5, None, torch.tensor([5, 6])], ids=repr)
    def test_no_token_ids(self, shared, ids):
        with pytest.raises(PromptError, match="`encode` makes of text or messages") as error:
            shared.stream(ids)
        line(error)

    @pytest.mark.parametrize("prompt", [5, [5, 6], ["hi"]])
    def test_neither_text_nor_messages(self, shared, prompt):
        with pytest.raises(PromptError, match="text or a list of messages") as error:
            shared.encode(prompt)
        line(error)

    def test_too_long_says_what_would_fit(self, tiny, shared):
        """Each way that it names does."""
        longest, window = Sampling(max_new_tokens=tiny.window), tiny.window
        with pytest.raises(PromptTooLongError, match=f"{window}; ask for at most {window - 9} new tokens$"):
            shared.stream(tiny.prompt(9), sampling=longest)
        shared.stream(tiny.prompt(9), sampling=Sampling(max_new_tokens=window - 9)).close()
        with pytest.raises(PromptTooLongError, match=r"to 500 tokens or ask for at most 6 new tokens$"):
            shared.stream(tiny.prompt(window - 6), sampling=Sampling(max_new_tokens=12))
        with pytest.raises(PromptTooLongError, match="shorten both"):
            shared.stream(tiny.prompt(window), sampling=longest)

    def test_messages_without_template(self, tiny, runtime, monkeypatch):
        monkeypatch.setattr(tiny.tokenizer, "chat_template", None)
        with pytest.raises(PromptError, match="no chat template"):
            runtime.encode("hello")
        assert runtime.encode("hi", raw=True)

    def test_raw_messages(self, shared):
        with pytest.raises(PromptError, match="raw prompts are text"):
            shared.encode([{"role": "user", "content": "x"}], raw=True)

    def test_what_the_template_refuses(self, tiny, runtime, monkeypatch):
        picky = (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system\nrole here') }}{% endif %}"
        )
        monkeypatch.setattr(tiny.tokenizer, "chat_template", picky)
        with pytest.raises(PromptError, match="no system role here") as error:
            runtime.encode([{"role": "system", "content": "x"}])
        line(error)

    def test_the_template_is_applied_once(self, tiny, shared):
        ids = shared.encode("hi")
        assert tiny.tokenizer.decode(ids) == "<bos>user: hi\nassistant:"
        assert shared.encode([{"role": "user", "content": "hi"}]) == ids


class TestModelsThatAreNotServed:
    def refusal(self, tiny, config) -> str:
        model = AutoModelForCausalLM.from_config(config)
        with pytest.raises(ModelError) as error:
            Runtime.load(model, tokenizer=tiny.tokenizer)
        return line(error)

    def test_all_layers_slide(self, tiny):
        message = self.refusal(tiny, tiny.config("mistral", sliding_window=16))
        assert "no full-attention layer" in message
        assert "16 tokens" in message

    def test_a_window_as_long_as_the_model_does_not_slide(self, tiny):
        with tiny.runtime("mistral", sliding_window=tiny.window) as runtime:
            prompt = tiny.prompt(40)
            assert tiny.run(runtime, prompt, "verified", 6).token_ids == tiny.reference(runtime, prompt, 6)

    def test_no_attention_interface(self, tiny):
        assert "AttentionInterface" in self.refusal(
            tiny, transformers.BloomConfig(hidden_size=16, n_layer=1, n_head=2)
        )

    def test_linear_attention(self, tiny):
        kinds = ["linear_attention", "full_attention"]
        config = transformers.MiniMaxConfig(
            vocab_size=99, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, head_dim=16, num_local_experts=2, layer_types=kinds,
        )  # fmt: skip
        assert "layers of kind linear_attention" in self.refusal(tiny, config)

    def test_convolutions(self, tiny):
        config = transformers.Lfm2Config(
            vocab_size=99, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, layer_types=["conv", "full_attention"],
        )  # fmt: skip
        assert "layers of kind conv" in self.refusal(tiny, config)

    def test_a_model_without_its_tokenizer(self, tiny):
        with pytest.raises(ModelError, match="pass tokenizer="):
            Runtime.load(tiny.model())


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def broken(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "broken")


class TestFolders:
    def refusal(self, name) -> str:
        with pytest.raises(SFIError) as error:
            Runtime.load(name)
        return line(error)

    def test_a_whole_one_loads(self, tiny, checkpoint, shared):
        with Runtime.load(checkpoint) as runtime:
            prompt = tiny.prompt(30)
            assert (
                tiny.run(runtime, prompt, "dense", 5).token_ids
                == tiny.run(shared, prompt, "dense", 5).token_ids
            )
            assert runtime.encode("hi") == shared.encode("hi")

    @pytest.mark.parametrize("name", ["smollm", "no/such/model", "./nowhere", "/nowhere", "~/nowhere-at-all"])
    def test_an_unknown_name_lists_the_embedded(self, name):
        assert "smollm2-135m" in self.refusal(name)

    def test_an_unknown_name_is_that(self):
        with pytest.raises(UnknownNameError, match="Did you mean 'smollm2-135m'"):
            Runtime.load("smollm2")

    def test_an_empty_name_is_no_folder(self):
        assert "name is empty" in self.refusal("")

    def test_an_empty_folder(self, tmp_path):
        assert "no config.json and no .gguf" in self.refusal(tmp_path)

    def test_a_missing_gguf(self, tmp_path):
        assert "no such GGUF file" in self.refusal(tmp_path / "x.gguf")

    @pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 100])
    def test_a_corrupt_gguf(self, tmp_path, content):
        (tmp_path / "x.gguf").write_bytes(content)
        assert "cannot load model" in self.refusal(tmp_path / "x.gguf")
        assert "cannot load model" in self.refusal(tmp_path)

    @pytest.mark.parametrize("keep", [0, 4, 1000, 0.5, -1])
    def test_a_truncated_checkpoint(self, broken, keep):
        weights = broken / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
        assert "cannot load model" in self.refusal(broken)

    def test_a_corrupt_checkpoint(self, broken):
        (broken / "model.safetensors").write_bytes(b"\xff" * 500)
        assert "cannot load model" in self.refusal(broken)

    def test_no_weights(self, broken):
        (broken / "model.safetensors").unlink()
        assert "cannot load model" in self.refusal(broken)

    def test_missing_weights(self, broken):
        """transformers fills them with random numbers and a warning."""
        from safetensors.torch import load_file, save_file

        weights = load_file(broken / "model.safetensors")
        gone = "model.layers.1.self_attn.q_proj.weight"
        save_file(
            {name: t for name, t in weights.items() if name != gone},
            broken / "model.safetensors",
            {"format": "pt"},
        )
        assert gone in self.refusal(broken)

    def test_weights_of_another_shape(self, broken):
        config = json.loads((broken / "config.json").read_text())
        (broken / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}))
        assert "cannot load model" in self.refusal(broken)

    def test_a_corrupt_config(self, broken):
        (broken / "config.json").write_text('{"model_type": "llama", ')
        assert "cannot load model" in self.refusal(broken)

    def test_an_unknown_architecture(self, broken):
        (broken / "config.json").write_text('{"model_type": "no_such_thing"}')
        refusal = self.refusal(broken)
        assert "does not know model type 'no_such_thing'; take another model" in refusal
        assert "damaged" not in refusal

    @pytest.mark.parametrize("family", ["llama", "qwen2"])
    def test_no_tokenizer(self, broken, family):
        """Of Qwen's transformers makes an empty one."""
        config = json.loads((broken / "config.json").read_text())
        (broken / "config.json").write_text(json.dumps({**config, "model_type": family}))
        for file in broken.glob("tokenizer*"):
            file.unlink()
        assert "its tokenizer's files are missing" in self.refusal(broken)

    @pytest.mark.parametrize(
        ("device", "dtype"), [("gpu", "auto"), ("cuda:99", "auto"), ("cpu", "float8"), ("", "auto")]
    )
    def test_device_and_dtype(self, checkpoint, device, dtype):
        with pytest.raises(SettingError) as error:
            Runtime.load(checkpoint, device=device, dtype=dtype)
        line(error)

    def test_dtype_is_heeded(self, checkpoint):
        with Runtime.load(checkpoint, dtype="bfloat16") as runtime:
            assert runtime.model.dtype is torch.bfloat16
