"""Running a handler and its steps, in a thread or in a task."""
