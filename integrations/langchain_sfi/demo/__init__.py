"""The main job, end to end: ``python -m langchain_sfi.demo``."""
