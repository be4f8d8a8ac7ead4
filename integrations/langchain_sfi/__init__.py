"""LangChain's chat model over the slow-fast runtime."""

from langchain_sfi.chat_models import SFIChatModel

__all__ = ["SFIChatModel"]
