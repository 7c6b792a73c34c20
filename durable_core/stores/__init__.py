"""Where the embedded engine keeps runs: in memory, or in a SQLite file."""
