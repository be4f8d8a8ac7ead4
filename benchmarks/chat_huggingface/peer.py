"""LangChain's ChatHuggingFace through the session: ``python peer.py MODEL_FOLDER CALLS``, in its environment.

Prints JSON: seconds of all calls and the tokens that they generated. Loading the model is not counted.
"""

from __future__ import annotations

import json
import sys
import time

import torch
from dialogue import TOKENS, requests
from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

ROLES = {"user": "human", "assistant": "ai"}


def answer(chat: ChatHuggingFace, messages: list[tuple[str, str]]) -> str:
    """What the model says next."""
    return str(chat.invoke([(ROLES[role], content) for role, content in messages]).content)


def main() -> None:
    """One session."""
    folder, calls = sys.argv[1], int(sys.argv[2])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.generation_config.max_length = None
    made = pipeline(
        "text-generation",
        model=model,
        tokenizer=tokenizer,
        max_new_tokens=TOKENS,
        do_sample=False,
        return_full_text=False,
    )
    chat = ChatHuggingFace(llm=HuggingFacePipeline(pipeline=made), tokenizer=tokenizer)
    answer(chat, requests(1)[0])  # warms up
    seconds, tokens = 0.0, 0
    for messages in requests(calls):
        began = time.perf_counter()
        text = answer(chat, messages)
        seconds += time.perf_counter() - began
        written = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        tokens += min(TOKENS, written + 1)  # with its end
    print(json.dumps({"seconds": seconds, "tokens": tokens}))


if __name__ == "__main__":
    main()
