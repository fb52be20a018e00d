"""What packing and exporting mean, written slowly in plain Python; rows are dicts as row schema version 1 names them.

Nothing here is taken from the code: both are written from what the trainers read.
"""

NO_LABEL = -100


def plan_packs(lengths, length):
    """First-fit-decreasing: packs as lists of row numbers, and the rows that are longer than a pack."""
    packs, left_out = [], [row for row, ids in enumerate(lengths) if ids > length]
    by_length = sorted((row for row in range(len(lengths)) if row not in left_out), key=lambda row: -lengths[row])
    for row in by_length:
        for pack in packs:
            if sum(lengths[other] for other in pack) + lengths[row] <= length:
                pack.append(row)
                break
        else:
            packs.append([row])
    return [sorted(pack) for pack in packs], left_out


def weights_of(row):
    """The ids of a row, and what each weighs before the row's own weight; the first never has loss."""
    ids = row["input_ids"] + row["output_ids"]
    weights = [0.0] * len(ids)
    spans = row["loss_spans"]
    if spans is None:
        spans = [{"start": len(row["input_ids"]), "end": len(ids), "weight": 1.0}]
    for span in spans:
        for at in range(span["start"], span["end"]):
            weights[at] = span["weight"]
    return ids, [0.0, *weights[1:]] if ids else []


class Copies:
    """Systematic rounding: copies of a row are the whole numbers that the running sum of weights passes."""

    def __init__(self, seed):
        z = (seed + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        self.sum, self.given = ((z ^ (z >> 31)) >> 44) / 2**20, 0

    def draw(self, weight):
        self.sum += weight
        copies = int(self.sum) - self.given
        self.given = int(self.sum)
        return copies


class UntoldWeightError(Exception):
    """A row whose weight the trainer cannot be told."""


def examples(rows, takes, weights="error", seed=0, most=None):
    """What is written: (row number, ids, weight of each id), and why rows are left out. `takes` is the weight the
    trainer takes: none, row or token."""
    made, left_out, copies = [], {}, Copies(seed)
    for number, row in enumerate(rows):
        ids, of_ids = weights_of(row)
        levels = sorted({weight for weight in of_ids if weight})
        if row["weight"] == 0:
            reason = "zero_weight"
        elif not levels:
            reason = "without_loss"
        elif most is not None and len(ids) > most:
            reason = "overlong"
        elif weights == "copies":
            drawn = []
            for low, level in zip([0.0, *levels], levels, strict=False):
                mask = [float(weight >= level) for weight in of_ids]
                drawn += [(number, ids, mask)] * copies.draw(row["weight"] * (level - low))
            made += drawn
            reason = None if drawn else "not_drawn"
        else:
            mask = [float(weight > 0) for weight in of_ids]
            full = [weight * row["weight"] for weight in of_ids]
            plain = full == mask
            if weights == "drop":
                made.append((number, ids, mask))
            elif takes == "token" or (takes == "row" and len(levels) == 1) or plain:
                made.append((number, ids, full))
            else:
                raise UntoldWeightError(number)
            reason = None
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
    return made, left_out


def labels(ids, weights):
    return [i if weight else NO_LABEL for i, weight in zip(ids, weights, strict=True)]


def mask(weights):
    return [int(weight > 0) for weight in weights]


def trl(number, ids, weights, row):
    return {"input_ids": ids, "labels": labels(ids, weights)}


def skyrl(number, ids, weights, row):
    return {"input_ids": ids, "loss_mask": mask(weights)}


def axolotl(number, ids, weights, row):
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels(ids, weights)}


def nemo_rl(number, ids, weights, row):
    log = []
    for i, trained in zip(ids, mask(weights), strict=True):
        if not log or log[-1]["token_loss_mask"][-1] != trained:
            role = "assistant" if trained else "user"
            log.append({"role": role, "content": "", "token_ids": [], "token_loss_mask": []})
        log[-1]["token_ids"].append(i)
        log[-1]["token_loss_mask"].append(trained)
    who = {name: row[name] for name in ("rollout_id", "task_id", "call_id", "turn", "reward")}
    return {
        "message_log": log,
        "length": len(ids),
        "loss_multiplier": max(weights),
        "idx": number,
        "task_name": "tito",
        "extra_env_info": who,
    }


def tinker(number, ids, weights, row):
    shape = [len(ids) - 1]
    return {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": ids[:-1]}]},
        "loss_fn_inputs": {
            "target_tokens": {"data": ids[1:], "dtype": "int64", "shape": shape},
            "weights": {"data": weights[1:], "dtype": "float32", "shape": shape},
        },
    }


def slime(number, ids, weights, row):
    start = len(row["input_ids"]) if row["output_ids"] else mask(weights).index(1)
    logprobs = row.get("output_logprobs")
    if logprobs is not None:
        behind = logprobs if row["output_ids"] else logprobs[start:]
        logprobs = [value if trained else 0.0 for value, trained in zip(behind, mask(weights)[start:], strict=True)]
    return {
        "index": number,
        "tokens": ids,
        "response_length": len(ids) - start,
        "loss_mask": mask(weights)[start:],
        "rollout_log_probs": logprobs,
        "reward": row["reward"],
        "status": "truncated" if row["flags"] & 1 else "completed",
        "metadata": {"rollout_id": row["rollout_id"], "turn": row["turn"]},
    }


FORMATS = {
    "trl": ("none", trl),
    "skyrl": ("none", skyrl),
    "verl": ("none", skyrl),
    "axolotl": ("none", axolotl),
    "nemo-rl": ("row", nemo_rl),
    "tinker": ("token", tinker),
    "slime": ("none", slime),
}
