"""LangChain's chat model over the slow-fast runtime.

:class:`SFIChatModel` has what LangChain's chat models have:

- ``invoke``, ``stream``, ``batch``, their asynchronous forms, and ``stream_events``. Answers that run at the
  same time share model steps. A stream that is closed, and a task that is cancelled, ends its turn.
- Sessions: ``{"configurable": {"thread_id": ...}}`` in a call's config, or its ``session_id``, names the
  session it continues. The messages are sent whole, as ever; what the session has read is not read again.
  Models that share a thread have a session each by their own ``session_id``.
- Tools: ``bind_tools``, calls that are forced, several in one answer, their arguments as they come.
- Structured answers: ``with_structured_output`` by schema, by a forced call, or as any JSON object.
- Usage: ``usage_metadata``, with ``cache_read`` for the prompt tokens that were not computed anew.
- Counting: ``trim_messages`` and the like count with the model's own tokenizer and chat template.

The model reads text: a message with an image, audio or a file is refused with PromptError. There are no log
probabilities, and one answer for each prompt.
"""

from langchain_sfi.chat_models import SFIChatModel
from langchain_sfi.runtimes import close_runtimes, shared_runtime

__all__ = ["SFIChatModel", "close_runtimes", "shared_runtime"]
