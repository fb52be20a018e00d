"""What merged rows save a trainer: the rows of real captures, one a call and merged, trained on the same weights.

    python benches/merged_train.py                          # chats of five turns, on a CPU: some minutes
    python benches/merged_train.py qwen3/calls.jsonl --layers 4

The same calls give both files. First it is checked that they train the same: the same ids with loss, and over the whole
set the same gradient of every LoRA weight. Then each row's forward and backward is timed, both kinds in turn, best of
--runs; the optimiser is left out, for it costs a step the same whatever is in it. What a row costs is fitted as
a x ids + b x loss ids: the part that follows length, and that of the head, which scores only what is trained and so
costs both kinds the same. Weights are random; what they are does not change what they cost.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import tito
import torch
from peft import LoraConfig, get_peft_model
from tito.train import TitoCollator, TitoSFTDataset
from tito.train.base import SEVEN
from tito.train.loss import add_chunked_loss
from transformers import Qwen3Config, Qwen3ForCausalLM

CAPTURES = Path(__file__).parents[1] / "tests" / "captures"
# Rows of the embedding that the ids of a capture need.
VOCABULARY = {"smollm2-chat.jsonl": 49_152, "qwen3/calls.jsonl": 151_936}


def student(vocabulary, given):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=given.hidden,
        intermediate_size=3 * given.hidden,
        num_hidden_layers=given.layers,
        num_attention_heads=given.hidden // 64,
        num_key_value_heads=given.hidden // 128,
        head_dim=64,
        tie_word_embeddings=True,
    )
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=list(SEVEN), task_type="CAUSAL_LM")
    base = Qwen3ForCausalLM(config).to(given.device)
    add_chunked_loss(base)
    model = get_peft_model(base, lora)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_B." in name:
                weight.normal_(0, 0.02)
    return model


def batches(data, given):
    """Rows in the order of the file, which is the order of rollouts and turns in both files."""
    collate = TitoCollator()
    made = [collate([sample]) for sample in data]
    return [{k: v.to(given.device) for k, v in batch.items() if k != "rows"} for batch in made]


def backward(model, batch):
    out = model(**batch, chunked_loss=True)
    out.loss.backward()
    return float(out.loss.detach())


def gone_through(model, rows, given):
    """Forward and backward of each row: seconds of each, sum of the losses, gradient of the whole set."""
    model.zero_grad()
    found, loss = [], 0.0
    for batch in rows:
        begun = now(given)
        loss += backward(model, batch)
        found.append(now(given) - begun)
    return np.array(found), loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def now(given):
    if given.device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def compare(name, vocabulary, given, folder):
    rows, data = {}, {}
    for kind in ("turn", "merged"):
        path = folder / f"{name.replace('/', '-')}-{kind}.parquet"
        tito.convert(CAPTURES / name, path, policies=tito.Policies(rows=kind))
        data[kind] = TitoSFTDataset(path)
        rows[kind] = batches(data[kind], given)
    ids = {kind: sorted(i for s in of for i in s["labels"].tolist() if i != -100) for kind, of in data.items()}
    assert ids["turn"] == ids["merged"], "the two files train other ids"

    model = student(vocabulary, given)
    times, losses, gradients = {kind: [] for kind in rows}, {}, {}
    for _ in range(given.runs):
        for kind, of in rows.items():
            seconds, losses[kind], gradients[kind] = gone_through(model, of, given)
            times[kind].append(seconds)
    apart = float((gradients["turn"] - gradients["merged"]).norm() / gradients["turn"].norm())
    assert apart < 1e-3, f"the gradients differ by {apart:.1e}"
    best = {kind: np.min(of, 0) for kind, of in times.items()}
    total = {kind: float(of.sum()) for kind, of in best.items()}
    length = {kind: int(of.lengths().sum()) for kind, of in data.items()}
    trained = len(ids["turn"])

    print(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters, {given.device}")
    told = ", ".join(f"{loss / trained:.4f} ({kind})" for kind, loss in losses.items())
    print(f"the same gradient, apart by {apart:.1e} of its norm; loss by id {told}")
    print(f"{'':<8}{'rows':>6}{'ids':>9}{'with loss':>11}{'s a set':>9}{'ms a row':>10}{'us an id':>10}")
    for kind in ("turn", "merged"):
        each = 1e3 * total[kind] / len(rows[kind])
        print(
            f"{kind:<8}{len(rows[kind]):>6,}{length[kind]:>9,}{trained:>11,}{total[kind]:>9.2f}{each:>10.1f}"
            f"{1e6 * total[kind] / length[kind]:>10.0f}"
        )
    by_length, by_time = length["merged"] / length["turn"], total["merged"] / total["turn"]
    print(f"merged / turn: {by_length:.2f} of the ids, {by_time:.2f} of the time")
    body = {kind: total[kind] - of_head(data, best) * trained for kind in total}
    print(f"without the head, as fitted: {body['merged'] / body['turn']:.2f} of the time")


def of_head(data, best):
    """Seconds that an id with loss adds, by least squares over the rows of both kinds."""
    facts = np.concatenate([np.stack((of.lengths(), of.loss_tokens()), 1) for of in data.values()]).astype(float)
    (_, head), *_ = np.linalg.lstsq(facts, np.concatenate(list(best.values())), rcond=None)
    return max(head, 0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", nargs="?", choices=tuple(VOCABULARY), default=next(iter(VOCABULARY)))
    for name, value in {"layers": 12, "hidden": 256, "runs": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        compare(given.capture, VOCABULARY[given.capture], given, Path(folder))


if __name__ == "__main__":
    main()
