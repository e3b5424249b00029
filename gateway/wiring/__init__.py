"""Configuration as arguments: what ``pipeline`` hands to the parts it puts together.

upstreams   settings of upstreams, transports to their endpoints
access      authenticators
rules       rules for answers, requests and cache keys
"""
