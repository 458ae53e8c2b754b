"""gRPC on HTTP/2 of our own, on the server's event loop.

From the wire up:

* ``frames``: RFC 9113's frames and error codes, as bytes
* ``header_blocks``: HPACK, with the ``hpack`` package
* ``windows``: flow control
* ``limits``, ``pings``: what a client may do how often
* ``streams``: the states of one stream
* ``reading``, ``receiving``, ``sending``: frames out of bytes, credit for what came, data when it may go
* ``session``: the rules of one connection; ``connection``: its socket
* ``messages``, ``statuses``, ``calls``, ``rpcs``: gRPC's messages, deadlines and statuses on a stream
* ``frontend``: ports, TLS, start and stop, and the clock
"""
