"""Put on PYTHONPATH of a stock `launch_server`: lets it import torchvision's wheel beside a CPU build of torch.

See engine.sglang_plugin.torchvision_shim, which Hydrant's own processes call by themselves. Here it waits until
something imports torchvision, so that processes that never do are not slowed by an import of torch.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _BeforeTorchvision(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            from engine.sglang_plugin import torchvision_shim

            torchvision_shim.install()
        return None


sys.meta_path.insert(0, _BeforeTorchvision())
