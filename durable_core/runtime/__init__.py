"""Everything that touches the world with the standard library: stores, threads, clocks, HTTP."""
