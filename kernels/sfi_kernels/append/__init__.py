"""New tokens' keys and values put in their rows' pages."""
