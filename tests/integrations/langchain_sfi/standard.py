"""LangChain's own tests of a chat model, and what holds of ours whatever model is behind it."""

from __future__ import annotations

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_sfi import SFIChatModel


# Without a recorded exchange the suite's timing test streams once and times nothing.
@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")
class SFIChatModelTests(ChatModelIntegrationTests):
    """What cannot apply (images, audio, PDF) is what the suite's properties leave off by default."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return SFIChatModel

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def enable_vcr_tests(self) -> bool:
        return True
