"""The short way of plain exchanges: what the layers of ``pipeline`` decide, decided ahead.

A GET without a body, on a route whose layers ask for nothing that has to be awaited, is answered from the store or sent
on as soon as it is read, without a task, a scope or a message; the answer of an upstream that is there whole, and needs
no work, leaves in the moment in which it comes. The rules are those of the layers: they are asked once for each header
section, target and field, and what they said is remembered.

Whatever turns out not to be plain goes on through the layers from where it stands. Without this package every exchange
does, and the client sees the same.

    table      Express: from a header section and a target to a lane
    fields     what becomes of a field of an upstream's response
    coded      what becomes of a response that may be coded
    proxied    the lane to an upstream
    exchange   one exchange on it, to whichever end
    stored     the lane to the cache's store
    unstored   requests that go past the store
    guarded    a lane before which it is decided who may use it, and how much
    shared     a lane for each origin whose scripts may read the answers
    resumed    the way on through the layers
    request_template    heads of requests, written once for all values of their fields
    mounted    the short way under other servers
    uvicorn_cycle    whole answers through uvicorn, in one write

May import whatever ``pipeline`` may, but not ``config``.
"""
