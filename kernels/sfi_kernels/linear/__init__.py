"""Linear layers of few tokens, as fast as their weights can be read."""
