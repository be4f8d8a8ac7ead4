"""Codes of keys, by which an index estimates logits."""
