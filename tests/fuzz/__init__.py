"""Damaged files: whatever is done to one, it is refused by name, at once, and costs nobody else anything."""
