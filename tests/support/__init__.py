"""What tests share: scripted upstreams, real servers on port 0, raw clients, message-level drivers."""
