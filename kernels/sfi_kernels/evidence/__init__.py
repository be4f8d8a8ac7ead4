"""What queries attend to, and the norms of the keys."""
