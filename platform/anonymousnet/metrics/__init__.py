"""Metrics: pure functions, each with its interval or its baseline."""
