"""Pure decisions: the next state of a run, the time of a retry, the event that ends a wait."""
