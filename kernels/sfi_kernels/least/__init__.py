"""The lowest logit of those that may be drawn."""
