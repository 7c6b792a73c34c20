"""Pure decisions: what a run does next, when it tries again, which event ends a wait."""
