"""Where the positions that a selector chose lie in the pool."""
