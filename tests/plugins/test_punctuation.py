"""The sentence trigger, rule by rule and language by language."""

import pytest

from sfi_agent.boundaries import Trigger
from sfi_agent.contracts import TokenFlag
from sfi_agent.errors import SettingError
from sfi_agent.registry import Registry
from sfi_agent.testing import TextVocabulary
from sfi_plugins.boundaries.newline import NewlineDetector
from sfi_plugins.boundaries.punctuation import PunctuationDetector


def flag(text, detector=None):
    return TokenFlag(int((detector or PunctuationDetector()).flags(TextVocabulary([text]))[0]))


def fired(tokens, detector=None):
    """The tokens, of those given in order, that a slow step reads."""
    vocabulary = TextVocabulary(tokens)
    trigger = Trigger([detector or PunctuationDetector()], vocabulary, min_gap=0, max_interval=10**9)
    return [token for place, token in enumerate(tokens) if trigger.observe(place)]


ENDERS = [".", "?", "!", "。", "．", "？", "！", "…", "।", "॥", "؟", "۔", "։", "።", "។", "။"]
MERGED = [".\n", ".\n\n", ". ", " .", "!\r\n", "?!", "...", "!!!", "。\n\n", "？！"]
MERGED += ['."', ".)", '!"\n', ").", "”.", ".”", "。」", "！』", ".**", "`.", '?").']
INSIDE = [
    " 3.14",
    "e.g",
    "e.g.",
    ".py",
    "a.",
    "...and",
    "!=",
    "../",
    "?x",
    ".,",
    ":",
    ";",
    ",",
    "、",
    "¿",
    "¡",
    "-",
    "(",
]
BLANK = ["", " ", "\n", "\n\n", "\r\n", "\t", "\u3000", "\n    "]
CLOSERS = ['"', ")", "”", "」", "**"]


@pytest.mark.parametrize("text", ENDERS + MERGED)
def test_an_ender_arms(text):
    assert flag(text) == TokenFlag.ARM


@pytest.mark.parametrize("text", INSIDE + CLOSERS)
def test_an_ender_inside_a_word_does_not(text):
    assert flag(text) == TokenFlag.NONE


@pytest.mark.parametrize("text", BLANK)
def test_blanks_hold(text):
    assert flag(text) == TokenFlag.HOLD


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["It", " rains", ".", " We", " stay", "."], [" We"]),
        (["Why", "?!", "\n", "\n", "Because", " so"], ["Because"]),
        (["Wait", "...", "...", " what"], [" what"]),
        (["pi", " is", " 3.14", ",", " e.g", " here"], []),
        (["He", ' said "', "no", '."', " Then", " left"], [" Then"]),
        (["(", "so", ".)", "\n\n", "Next"], ["Next"]),
        (["One", ".\n\n", "Two", ".\n", "Three"], ["Two", "Three"]),
        (["Done", ".", '"', " Then"], ['"']),
        (["¿", "Qué", " tal", "?", " ¡", "Bien", "!", " Adiós"], [" ¡", " Adiós"]),
        (["今天", "天气", "很好", "。", "我们", "走", "吧", "！", "\n", "好"], ["我们", "好"]),
        (["今日", "は", "晴れ", "です", "。」", "と", "言った", "。", "明日", "も"], ["と", "明日"]),
        (["यह", " एक", " है", "।", " वह", " दो"], [" वह"]),
        (["كيف", " حالك", "؟", " بخير", ".", " شكرا"], [" بخير", " شكرا"]),
        (["یہ", " ہے", "۔", " وہ"], [" وہ"]),
    ],
)
def test_the_next_sentence_starts_with_a_slow_step(tokens, expected):
    assert fired(tokens) == expected


def test_it_fires_once_a_sentence():
    assert fired(["a", ".", "b", "c", "d"]) == ["b"]


def test_nothing_fires_before_an_ender():
    assert fired(["\n", "a", "\n", "b"]) == []


def test_enders_and_closers_are_settings():
    assert flag(";", PunctuationDetector(enders=";")) == TokenFlag.ARM
    assert flag(".", PunctuationDetector(enders=";")) == TokenFlag.NONE
    assert flag('."', PunctuationDetector(closers="")) == TokenFlag.NONE


@pytest.mark.parametrize("enders", ["", ". ", "\n"])
def test_enders_must_be_visible(enders):
    with pytest.raises(SettingError, match="enders must be one or more characters, none blank"):
        Registry().create("boundary", "punctuation", {"enders": enders})


def test_newline_fires_on_the_token_that_has_one():
    assert fired(["a", ".", "\n", "b", " \n\n", "c", "};\r\n", "d\ne"], NewlineDetector()) == [
        "\n",
        " \n\n",
        "};\r\n",
        "d\ne",
    ]
