"""Indexes, one a file: small codes of keys from which selectors re-rank."""
