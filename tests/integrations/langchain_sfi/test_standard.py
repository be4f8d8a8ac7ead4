"""LangChain's own tests of a chat model, on the embedded model. They reach no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_sfi import SFIChatModel
from langchain_sfi.runtimes import close_runtimes
from sfi_agent.models.embedded import ensure_embedded
from tests.integrations.langchain_sfi.standard import SFIChatModelTests

MODEL = "smollm2-135m"


@pytest.fixture(autouse=True, scope="module")
def _close(smollm2: Path) -> Iterator[None]:
    yield
    close_runtimes()


class TestStandard(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return SFIChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        """There is no service: no key in the environment reaches the model."""
        return {"SFI_API_KEY": "secret"}, {"model": MODEL}, {"model_name": MODEL, "api_key": None}


class TestEmbeddedModel(SFIChatModelTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "max_tokens": 60, "max_string": 8}

    @property
    def model_override_value(self) -> str:
        return str(ensure_embedded(MODEL))  # the same model under another name

    @property
    def supported_usage_metadata_details(self) -> dict[Literal["invoke", "stream"], list[Any]]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = SFIChatModel(**self.chat_model_params, session_id=f"cached-{stream}")
        asked = [HumanMessage("What is a fjord?")]
        answer = model.invoke(asked, max_tokens=8)
        again = [*asked, answer, HumanMessage("And a bay?")]
        if not stream:
            return model.invoke(again, max_tokens=8)
        first, *rest = model.stream(again, max_tokens=8)
        return sum(rest, first)
