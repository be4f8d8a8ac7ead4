"""Boundary detectors, one a file."""
