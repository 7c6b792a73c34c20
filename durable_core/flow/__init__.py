"""Orchestration, written once: generators that yield Asks, and the two drivers that answer them."""
