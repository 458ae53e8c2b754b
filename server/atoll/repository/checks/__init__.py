"""What a configuration must fulfil, in the three moments at which it is asked.

1. ``check_config`` when the repository is read: everything that auto-complete cannot change.
2. ``check_tensors`` when inputs and outputs are final: also at reading where auto-complete is off, else at loading.
3. ``check_loadable`` when the model is loaded: what this host cannot run.

All take the normalised ``ModelConfig`` message and raise the first fault they find.
"""

from atoll.repository.checks.instances import check_loadable, check_stub_name
from atoll.repository.checks.model import check_batch_size, check_config
from atoll.repository.checks.scheduling import check_scheduling
from atoll.repository.checks.tensors import check_tensors

__all__ = ["check_batch_size", "check_config", "check_loadable", "check_scheduling", "check_stub_name", "check_tensors"]
