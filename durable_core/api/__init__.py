"""What users touch: ``Durable``, its options, steps, routes and the wait URL."""
