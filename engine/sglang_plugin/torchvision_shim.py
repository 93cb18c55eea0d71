"""Lets torchvision's CUDA wheel import beside a CPU build of torch.

PyPI's torchvision looks its operators `nms` and `qnms` up while it imports. Beside CPU torch its compiled part does not
load, the operators are missing, and the import fails, although nothing here ever calls them. Declaring their schemas
first is enough. On a machine with CUDA the real operators exist and this does nothing.
"""

from __future__ import annotations

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []


def install() -> None:
    """Declare the two operators if this torch has no CUDA. Call before anything imports torchvision."""
    if torch.version.cuda is not None or torch.version.hip is not None or _libraries:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(f"nms{_SCHEMA}")
    library.define(f"qnms{_SCHEMA}")
    # The declarations live as long as the library object does.
    _libraries.append(library)
