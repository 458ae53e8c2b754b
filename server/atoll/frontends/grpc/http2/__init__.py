"""gRPC on HTTP/2 of our own, on the server's event loop.

From the wire up:

* ``frames``: RFC 9113's frames and error codes, as bytes
* ``header_blocks``: HPACK, with the ``hpack`` package
* ``windows``: flow control
* ``limits``: what a client may do how often
* ``streams``: the states of one stream
* ``reading``, ``sending``, ``connection``: one socket, frames in and out
* ``messages``, ``calls``: gRPC's messages, deadlines and statuses on a stream
* ``frontend``: ports, TLS, keepalive, start and stop
"""
