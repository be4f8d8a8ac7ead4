"""Names of things: keys that are easily told apart, and numbers that nobody knows beforehand."""

from __future__ import annotations

from random import Random

WORDS = (
    "anchor", "apple", "arrow", "badger", "bakery", "balcony", "banner", "barrel", "basket", "beacon",
    "blanket", "bottle", "branch", "bridge", "bucket", "butter", "button", "cabin", "camera", "candle",
    "canyon", "carpet", "castle", "cattle", "ceiling", "cherry", "chimney", "circle", "clover", "coffee",
    "compass", "copper", "cotton", "cradle", "curtain", "desert", "diamond", "dolphin", "dragon", "eagle",
    "engine", "falcon", "farmer", "feather", "fiddle", "finger", "flower", "forest", "fountain", "garden",
    "ginger", "glacier", "guitar", "hammer", "harbor", "helmet", "honey", "hunter", "island", "jacket",
    "jungle", "kettle", "kitchen", "ladder", "lantern", "lemon", "leopard", "library", "magnet", "marble",
    "market", "meadow", "mirror", "monkey", "mountain", "needle", "office", "orange", "orchard", "oyster",
    "palace", "panther", "paper", "pencil", "pepper", "pillow", "planet", "pocket", "potato", "pumpkin",
    "quarry", "rabbit", "ribbon", "river", "rocket", "saddle", "salmon", "school", "shadow", "shelter",
    "silver", "spider", "stable", "summer", "sunset", "temple", "thunder", "ticket", "tiger", "timber",
    "tower", "tractor", "tunnel", "turtle", "umbrella", "valley", "velvet", "village", "violin", "wagon",
    "walnut", "water", "whistle", "window", "winter", "yellow", "zebra",
)  # fmt: skip


def number(source: Random) -> str:
    """Seven digits."""
    return str(source.randint(1_000_000, 9_999_999))


def magic(key: str, value: str) -> str:
    """The line that hides a number, in words that small models know from needle tests."""
    return f"The special magic number for {key} is: {value}."
