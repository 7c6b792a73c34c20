"""Pure parts of the HTTP client."""
