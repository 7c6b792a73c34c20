"""The embedded engine: one worker per process serves, resumes and schedules runs."""
