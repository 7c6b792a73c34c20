"""What adapters are made of: messages, bodies, disconnects and servers."""
