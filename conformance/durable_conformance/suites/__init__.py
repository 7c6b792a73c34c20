"""The cases: ``pytest --pyargs durable_conformance.suites --durable-subject module:subject``."""
