"""What a run left, and what its loss is the long way round."""

import json
from pathlib import Path

import torch


def record(folder):
    return json.loads((Path(folder) / "tito_train.json").read_text())


def by_hand(model, samples):
    """Sum of weight x nll over all samples, one row at a time, from plain logits; and the loss tokens."""
    total, tokens = 0.0, 0
    for sample in samples:
        ids = torch.tensor(sample["input_ids"].tolist())
        labels = torch.tensor(sample["labels"].tolist())
        weights = torch.tensor(sample.get("loss_weights", [1.0] * len(ids)))
        log_probs = torch.log_softmax(model(input_ids=ids[None], use_cache=False).logits[0].float(), -1)
        for at in range(1, len(ids)):
            if labels[at] != -100:
                total = total - weights[at] * log_probs[at - 1, ids[at]]
                tokens += 1
    return total, tokens
