"""Frozen values that every other package speaks about: requests, responses, events, ops, runs."""
