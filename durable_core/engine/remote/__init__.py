"""What an engine needs whose runs are kept by a server elsewhere: all but the server's protocol."""
