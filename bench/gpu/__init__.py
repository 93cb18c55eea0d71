"""`make bench-gpu`, or `python -m bench.gpu` where there is nothing but the repository: Hydrant's own code on a GPU.

Needs one CUDA device, Python 3.11 or newer, torch (built for CUDA), numpy and safetensors, 6 GB of /dev/shm and 8 GB of
the device's memory; no network, no services, no root, none of Hydrant's other dependencies. With SGLang installed (the
engine's environment, deploy/setup.sh gpu) it also starts a stage. Made to take less than five minutes without that.
"""

from pathlib import Path

SHARED = Path("/dev/shm")  # noqa: S108 - shared memory lies there
