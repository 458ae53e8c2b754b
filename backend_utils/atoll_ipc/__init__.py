"""What crosses the wall between the supervisor and a stub, defined once.

Imported by both sides, so it keeps to Python 3.8's syntax and needs nothing but the standard library (and
``msgpack`` where a message is packed). See also: ``docs/architecture.md``.
"""
