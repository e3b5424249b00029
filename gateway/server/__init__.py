"""Running under uvicorn's machinery: what only the server can see, refuse, time or cut.

    run             a configuration as a service
    launch          an application as a service: addresses, processes, signals
    supervisor      several workers on the same sockets
    worker          one serving process
    protocol        a client's connection; beside it cycle (one request), body_intake (its body), framing, chunks,
                    scope, response_head, regulars (who connects again), refusal, limits (and the sweep over all
                    connections), websocket
    tls, tls_facts, redirect, sockets, notify, watch

May import everything of the gateway but ``cli``.
"""
