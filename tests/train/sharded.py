"""`tito train` with FSDP2 on CPU ranks, which accelerate would run as DDP without a word: it is told otherwise."""

import sys

import stopping
from accelerate import state
from accelerate.utils import DistributedType
from tito.cli import main
from tito.train import run
from tito.train.config import TrainConfig
from torch.distributed.tensor import DTensor

init = state.AcceleratorState.__init__


def forced(self, *given, fsdp_plugin=None, **more):
    init(self, *given, fsdp_plugin=fsdp_plugin, **more)
    # Each new view of the shared state takes the process's own kind over again.
    if (plugin := fsdp_plugin or self.__dict__.get("fsdp_plugin")) is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin


def probe(model, *, step):
    """That of `stopping`, on a model that lies in pieces."""
    assert all(isinstance(weight, DTensor) for weight in model.parameters())
    return stopping.probe(model, step=step)


# Not where this is only imported, as a collector of examples does: the rest of the tests would run with it.
if __name__ == "__main__":
    state.AcceleratorState.__init__ = forced
    run._device = lambda config: "cpu"
    TrainConfig._refuse_impossible = lambda self: None
    sys.exit(main(["train", *sys.argv[1:]]))
