"""The highest of many rows of scores, by ascending place."""
