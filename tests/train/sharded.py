"""`tito train` with FSDP2 on CPU ranks, which accelerate would run as DDP without a word: it is told otherwise."""

import sys

from accelerate import state
from accelerate.utils import DistributedType
from tito.cli import main
from tito.train import run

init = state.AcceleratorState.__init__


def forced(self, *given, fsdp_plugin=None, **more):
    init(self, *given, fsdp_plugin=fsdp_plugin, **more)
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin


state.AcceleratorState.__init__ = forced
run._device = lambda config: "cpu"

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
