"""Errors about a request begin with its id."""

from __future__ import annotations

import numpy as np
import pytest
from clients import Client
from tritonclient.utils import InferenceServerException


@pytest.mark.spec("server:265")
@pytest.mark.parametrize(("given", "shown"), [("mine", "mine"), ("", "<id_unknown>")])
def test_an_error_begins_with_the_request_id(client: Client, given: str, shown: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("ident_fp32", {"INPUT0": np.zeros((1, 3, 3, 3), np.float32)}, request_id=given)
    assert caught.value.message().startswith(f"[request id: {shown}] unexpected shape for input 'INPUT0' for model")
