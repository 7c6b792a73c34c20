"""Orchestration, written once: generators that yield effects, and two drivers that perform them."""
