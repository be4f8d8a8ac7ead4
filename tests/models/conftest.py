"""A wheel with a tiny GGUF model in it, and an empty cache: the real path in a second."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from sfi_agent.environment import environment
from sfi_agent.models.embedded import EMBEDDED, EmbeddedModel

HIDDEN, HEADS, TOKENS = 32, 4, 16
Q8 = gguf.GGMLQuantizationType.Q8_0


def write_tiny_gguf(path: Path) -> None:
    """A one-layer Llama with random weights, quantized as real files are, and a vocabulary of 16 tokens."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["ab", "cd", *"abcdefghijklmn"])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    _add_weights(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_weights(writer: gguf.GGUFWriter) -> None:
    draw = np.random.default_rng(0)
    square = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    for name in square:
        packed = gguf.quants.quantize(draw.standard_normal((HIDDEN, HIDDEN), np.float32), Q8)
        writer.add_tensor(f"blk.0.{name}.weight", packed, raw_dtype=Q8)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))
    writer.add_tensor("token_embd.weight", draw.standard_normal((TOKENS, HIDDEN), np.float32))


def write_wheel(folder: Path, content: bytes, *, stored: bool = False) -> Path:
    """``tiny_model`` 1.0 with ``content`` as its GGUF file."""
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_model/tiny.gguf", content)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(path)
    return path.read_bytes()


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place pip may look: a folder of wheels, empty so far."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder in place of the user's."""
    monkeypatch.setenv("SFI_CACHE", str(tmp_path / "cache"))
    environment.cache_clear()
    yield tmp_path / "cache"
    environment.cache_clear()


@pytest.fixture
def tiny(
    shelf: Path, cache: Path, tiny_gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., EmbeddedModel]:
    """``tiny(content)``: put a wheel on the shelf and list it as the embedded model ``tiny``."""

    def offer(content: bytes = tiny_gguf) -> EmbeddedModel:
        write_wheel(shelf, content)
        digest = hashlib.sha256(tiny_gguf).hexdigest()
        file = "tiny_model/tiny.gguf"
        model = EmbeddedModel("tiny", "tiny-model", "1.0", file, digest, "Apache-2.0", 1000, 128, 1_000_000)
        monkeypatch.setitem(EMBEDDED, "tiny", model)
        return model

    return offer
