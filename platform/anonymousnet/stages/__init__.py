"""The four stages, one file each."""
