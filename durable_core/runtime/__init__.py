"""Input and output of the HTTP client."""
