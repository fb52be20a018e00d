"""LoRA adapters and base models on disk: what they are, whether they fit, and how they are made ready for a server.

`tensors` reads files, `lora` and `base` what they mean, `keys` whose names stand in them, `inspect` judges, `write`,
`shards` and `fuse` make new folders. Only `shards` needs torch.
"""

from tito.adapter.base import BaseModel
from tito.adapter.inspect import AdapterReport, inspect
from tito.adapter.lora import LoraAdapter

__all__ = ["AdapterReport", "BaseModel", "LoraAdapter", "inspect"]
