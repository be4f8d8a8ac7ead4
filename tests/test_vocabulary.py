"""TokenizerVocabulary over tokenizers made in memory."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sfi_agent.vocabulary import TokenizerVocabulary


def sentencepiece():
    """As SentencePiece models are converted: ``▁`` for a space, bytes for unknown characters."""
    pieces = ["<s>", "▁", "a", "▁a", "▁the", "the", "▁.", ".", "<0x0A>", "<0xE3>", "▁▁"]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [("▁", "a")], byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def byte_level():
    pieces = ["a", "Ġa", "Ġ.", ".", "Ċ", "Ġn", "'", "'t", "ã", "ãĢĤ"]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def test_sentencepiece_texts_keep_their_spaces():
    texts = TokenizerVocabulary(sentencepiece()).texts
    assert list(texts) == ["<s>", " ", "a", " a", " the", "the", " .", ".", "\n", "\ufffd", "  "]


def test_byte_level_texts():
    texts = TokenizerVocabulary(byte_level()).texts
    assert list(texts) == ["a", " a", " .", ".", "\n", " n", "'", "'t", "\ufffd", "。", "<eos>"]


def test_a_tokenizer_that_tidies_spaces_keeps_them_here():
    pieces = ["<unk>", "▁a", "▁.", "▁'s", "▁?"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    tokenizer.decoder = decoders.Metaspace("▁", "always")
    tidy = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=True)
    assert tidy.decode([1, 2]) == "a."
    assert list(TokenizerVocabulary(tidy).texts) == ["<unk>", " a", " .", " 's", " ?"]


def test_ids_without_a_token_have_no_text():
    texts = TokenizerVocabulary(byte_level(), size=16).texts
    assert len(texts) == 16
    assert list(texts[10:]) == ["<eos>", "", "", "", "", ""]


def test_a_size_below_the_tokenizers_loses_nothing():
    assert len(TokenizerVocabulary(byte_level(), size=2).texts) == 11


def test_texts_are_decoded_once():
    vocabulary = TokenizerVocabulary(byte_level())
    assert vocabulary.texts is vocabulary.texts
