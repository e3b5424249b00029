"""What the gateway tells of itself: metrics. May import errors, exchange and http."""
