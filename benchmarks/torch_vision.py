"""torchvision, also where its operators in C++ do not fit the PyTorch that is installed."""

import functools
import re
import sys
from typing import Any

_DECLARED: list[Any] = []  # a library that is dropped takes its operators back


@functools.cache
def load() -> Any:
    """The package ``torchvision.models``; what it needs of the operators is declared, not made."""
    import torch

    while True:
        try:
            import torchvision.models

            return torchvision.models
        except RuntimeError as error:
            found = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if not found:
                raise
            for name in [name for name in sys.modules if name.startswith("torchvision")]:
                del sys.modules[name]
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{found.group(1)}() -> ()")
            _DECLARED.append(library)
