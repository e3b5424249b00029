"""How many requests the gateway serves per CPU-second, beside its peers."""
