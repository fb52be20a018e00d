"""What weights mean over a whole data set, in fractions: the twin of normalisation, scale and the validation side.

`settle(entries, options)` takes one dict a call that gives a row, with the keys `rollout` (any value that tells
rollouts apart), `task`, `name`, `weight` (what the rules say) and `trained` (ids with loss); it sets `side` and the
final `weight`. Where the core fails a run as a whole (too few keys, nothing that weighs anything) so does this, with
`ValueError`.
"""

import hashlib
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction


def settle(entries, options):
    apart = set()
    if options["val"] is not None and entries:
        keys = {key_of(entry, options["val_by"]) for entry in entries} - {None}
        apart = keys_apart(keys, options["val"], options["seed"])
    for entry in entries:
        entry["side"] = "val" if key_of(entry, options["val_by"]) in apart else "train"
        entry["weight"] = Fraction(entry["weight"]) if entry["side"] == "train" else Fraction(1)
    normalize([entry for entry in entries if entry["side"] == "train"], options)


def key_of(entry, by):
    task = entry["task"]
    if by == "repo":
        return task.rpartition("/")[0] if task is not None and "/" in task else None
    return {"task": task, "rollout": entry["name"]}[by]


def keys_apart(keys, val, seed):
    """Those whose SHA-256 of SEED:KEY comes first; a share is rounded half up, and each side gets one at least."""
    if len(keys) < 2 or val > len(keys) - 1 >= 1:
        raise ValueError(f"{len(keys)} keys")
    ranked = sorted(keys, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).hexdigest())
    count = int(val)
    if val < 1:
        share = (Decimal(str(val)) * len(keys)).quantize(Decimal(1), ROUND_HALF_UP)
        count = min(max(int(share), 1), len(keys) - 1)
    return set(ranked[:count])


def normalize(entries, options):
    """Every unit gets the same sum of weight over trained ids; all together keep theirs, and are then scaled."""
    scale = options["weight_scale"]
    if scale == "auto" and options["normalize"] != "none" and options["upweight_as"] == "copies":
        scale = "min-1"
    if not entries or (options["normalize"] == "none" and scale == "auto"):
        return

    def unit(entry):
        if options["normalize"] == "task" and entry["task"] is not None:
            return "task", entry["task"]
        return "rollout", entry["rollout"]

    totals = {}
    for entry in entries:
        totals[unit(entry)] = totals.get(unit(entry), 0) + entry["weight"] * entry["trained"]
    whole, weighty = sum(totals.values()), sum(total > 0 for total in totals.values())
    if not whole:
        raise ValueError("nothing weighs anything")
    counting = [entry for entry in entries if entry["weight"] > 0 and entry["trained"]]
    for entry in entries:
        if options["normalize"] != "none" and totals[unit(entry)]:
            entry["weight"] *= whole / weighty / totals[unit(entry)]
    factor = 1
    if scale == "min-1":
        factor = 1 / min(entry["weight"] for entry in counting)
    if scale == "mean-1":
        factor = sum(entry["trained"] for entry in counting) / whole
    for entry in entries:
        if totals[unit(entry)]:
            entry["weight"] *= factor
