"""AnonymousNet: natural face de-identification with measurable privacy."""

__version__ = "0.1.0"
