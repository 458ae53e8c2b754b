"""One model instance's interpreter: loads ``model.py``, runs it, answers the channel.

Runs on any CPython 3.8 or newer, in an environment that holds numpy. A library with a main: apart from the host that
``triton_python_backend_utils`` is told of, nothing here is global, so that a user's own process can act as a stub.
"""
