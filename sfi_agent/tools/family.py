"""How a family of models writes tool calls, and which family a tokenizer belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINKING = ("<think>", "</think>")
"""Between these a model reasons (Qwen 3, DeepSeek R1, SmolLM3)."""

RESULT = ("<tool_response>", "</tool_response>")
"""Between these a tool's result is told (Hermes, Qwen)."""
HEADERS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>")
"""What headers of messages consist of (gpt-oss)."""


@dataclass(frozen=True)
class Family:
    """One way to write calls.

    Attributes:
        name: of the family.
        opens: delimiters, any of which opens calls; the first is the one that constrained calls use.
        closes: delimiter that ends them; empty: they end with their JSON.
        arguments: the key of a call's arguments.
        repeats: every one of several calls has delimiters of its own; otherwise they share one pair.
        brackets: several calls between one pair are written as a JSON list.
        separator: between two calls, outside of a list.
        bare: an answer that begins with a JSON object or list may be a call without a delimiter.
        named: between the name and the arguments, where the two are not in one JSON object.
        padding: around the JSON inside the delimiters.
        tagged: parameters are tags, ``<parameter=key>value</parameter>`` in ``<function=name>``.
        channels: an answer is messages with headers, and a call is the message to a function.
        results: delimiters of a tool's result in the prompt, where a model may copy them as text.
    """

    name: str
    opens: tuple[str, ...] = ()
    closes: str = ""
    arguments: str = "arguments"
    repeats: bool = False
    brackets: bool = False
    separator: str = "\n"
    bare: bool = False
    named: str = ""
    padding: str = ""
    tagged: bool = False
    channels: bool = False
    results: tuple[str, ...] = ()

    @property
    def delimiters(self) -> tuple[str, ...]:
        """Everything that must stay visible in the text for calls and reasoning to be found."""
        known = (*self.opens, self.closes, self.named, *THINKING, *(HEADERS if self.channels else ()))
        return tuple(text for text in known if text)


HERMES = Family("hermes", ("<tool_call>",), "</tool_call>", repeats=True, padding="\n", results=RESULT)
"""Hermes, Qwen 2.5 and 3, SmolLM; and every model whose chat template knows no tools."""
LLAMA = Family("llama3", ("<|python_tag|>",), arguments="parameters", separator="; ", bare=True)
MISTRAL = Family("mistral", ("[TOOL_CALLS]",), brackets=True)
MISTRAL_NAMED = Family("mistral_named", ("[TOOL_CALLS]",), repeats=True, separator="", named="[ARGS]")
"""Mistral since its tokenizer of version 11."""
PLAIN = Family("json", brackets=True, bare=True)
TAGGED = Family(
    "tagged", ("<tool_call>",), "</tool_call>", repeats=True, padding="\n", tagged=True, results=RESULT
)
"""Qwen 3 Coder and Qwen 3.5."""
HARMONY = Family("harmony", ("to=functions.",), channels=True)
"""gpt-oss."""
FAMILIES = {family.name: family for family in (HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, PLAIN, TAGGED, HARMONY)}


def family_of(tokenizer: PreTrainedTokenizerBase) -> Family:
    """The family whose delimiters the chat template writes; Hermes where it knows no tools."""
    template = _template(tokenizer)
    if "[TOOL_CALLS]" in template:
        return MISTRAL_NAMED if "[ARGS]" in template else MISTRAL
    if "<|channel|>" in template and "<|message|>" in template:
        return HARMONY
    if "<tool_call>" in template and "<function=" in template:
        return TAGGED
    if "<tool_call>" in template or not knows_tools(tokenizer):
        return HERMES
    return LLAMA if "<|python_tag|>" in template or '"parameters": ' in template else PLAIN


def knows_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template tells the model of its tools, found out by giving it one."""
    probe = "a_tool_to_be_found"
    tool = {
        "type": "function",
        "function": {
            "name": probe,
            "description": probe,
            "parameters": {"type": "object", "properties": {}, "required": []},
        },
    }
    if "tools" not in _template(tokenizer):
        return False
    try:
        shown = tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}], tools=[tool], add_generation_prompt=True, tokenize=False
        )
    except Exception:  # a template may raise anything
        return False
    return probe in str(shown)


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    template = getattr(tokenizer, "chat_template", None) or ""
    return template if isinstance(template, str) else " ".join(template.values())
