"""Logits estimated from a low-bit code of the keys."""
