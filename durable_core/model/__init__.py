"""Frozen values that every other package uses: events, ops, runs, streams, decisions."""
