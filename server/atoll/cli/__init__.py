"""The command lines ``atoll`` and ``tritonserver``: flags, options, and the life of the server process.

See also: ``flags`` (the table), ``options`` (what a command line asks for), ``wiring`` (options handed to the parts),
``lifecycle`` (start, wait for a signal, stop).
"""
