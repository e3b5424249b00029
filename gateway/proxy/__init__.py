"""The end of the chain: one request to an upstream and its answer back.

    handler        the steps of one exchange, attempts in a plain loop
    attempts       what came of them, and whether there is another
    outbound       the request as the upstream gets it: target, fields, framing
    request_body   the client's body: streamed, bounded, replayable while small
    client_watch   notices clients that leave or fall silent, for all exchanges at once
    retry          when an attempt may be made again
    relay          the response head and body on their way to the client
    websocket      the same for WebSockets

May import upstream, stores, telemetry, http, errors and exchange; not config, router or middleware.
"""
