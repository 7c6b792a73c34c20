"""The streams of runs in one process: who pushes, who reads, and what lies between."""
