"""Small services to put the gateway in front of, and one script that starts them all."""
