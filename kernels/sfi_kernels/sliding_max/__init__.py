"""The greatest of the scores around each place."""
