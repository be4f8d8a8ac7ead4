"""Experiments as documents: a page declares a question, and its results are measured, drawn and checked."""
