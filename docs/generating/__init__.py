"""The reference pages that repeat what the code says: a module writes one kind of page."""
