"""Measuring a policy against dense attention."""
