"""How a model's exception reads to a client, in the form of the original."""

import asyncio
import concurrent.futures
import os
import traceback

import triton_python_backend_utils

__all__ = ["render_exception"]

# What lies between the model and its caller, or below it: the host, pb_utils, and what runs coroutines.
_NOT_THE_MODELS = (
    "<frozen importlib",
    *(
        os.path.dirname(os.path.abspath(module)) + os.sep
        for module in (
            __file__,
            triton_python_backend_utils.__file__,
            asyncio.__file__,
            concurrent.futures.__file__,
        )
    ),
)


def render_exception(error: BaseException) -> str:
    """Type and text, then the frames, innermost first. Causes and contexts are not shown."""
    try:
        text = str(error) or "<EMPTY MESSAGE>"
    except BaseException as another:  # a model's own class of exceptions may fail at that, in any way
        text = f"<no text: its __str__ raised {type(another).__name__}>"
    frames = [
        f"  {frame.filename}({frame.lineno}): {frame.name}\n"
        for frame in reversed(traceback.extract_tb(error.__traceback__))
        if not frame.filename.startswith(_NOT_THE_MODELS)
    ]
    return f"{type(error).__name__}: {text}" + ("\n\nAt:\n" + "".join(frames) if frames else "")
