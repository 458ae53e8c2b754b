"""The low-level binding: the names of the original's C API as Python objects."""

from tritonserver._c.triton_bindings import *
