"""What training costs: trainer beside plain PyTorch loop, float32 beside bfloat16. Of merged rows: `merged_train.py`.

    python benches/gpu_train.py                                   # a CPU: a tiny random model
    python benches/gpu_train.py --layers 24 --hidden 2048 --length 8192 --device cuda

Weights are random, so no download; every run trains the same ids, and that is checked first. Ratios are of one process,
loops interleaved (CPU seconds on a CPU), the median of --steps optimiser steps each. On a GPU also peak memory, and
whether rows of a pack are kept apart with SDPA and, where it is installed, flash attention.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tito.train import TitoCollator, TitoSFTDataset, TrainConfig
from tito.train.base import find_targets, read_base
from tito.train.check_model import check_isolation
from tito.train.plan import make_plan
from tito.train.record import Record
from tito.train.rhythm import Rhythm
from tito.train.run import Run
from tito.train.work import Work
from transformers import Qwen3Config, Qwen3ForCausalLM, TrainerCallback


class Clock(TrainerCallback):
    """Seconds from the end of one optimiser step to the end of the next: all that lies between is counted."""

    def __init__(self, now):
        self.now, self.ends = now, []

    def on_train_begin(self, *_, **__):
        self.ends.append(self.now())

    def on_step_end(self, *_, **__):
        self.ends.append(self.now())

    @property
    def steps(self):
        return np.diff(self.ends).tolist()


def base(folder, given):
    torch.manual_seed(0)
    heads = max(given.hidden // 128, 2)
    config = Qwen3Config(
        hidden_size=given.hidden,
        intermediate_size=3 * given.hidden,
        num_hidden_layers=given.layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 4, 1),
        head_dim=given.hidden // heads,
        vocab_size=given.vocabulary,
        max_position_embeddings=65536,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def made(path, given):
    """Rows of one length, a quarter of each with loss."""
    random = np.random.default_rng(0)
    rows = random.integers(0, given.vocabulary - 1, (given.steps + 3, given.length)).astype(np.int32)
    cut = given.length * 3 // 4
    pq.write_table(pa.table({"input_ids": list(rows[:, :cut]), "output_ids": list(rows[:, cut:])}), path)
    return path


def trainer(folder, data, given, *more):
    settings = [f"base={folder}", f"data={data}", f"output={folder}/out", "accumulate=1", "log_every=100000", *more]
    settings += [] if given.device == "cpu" else ["device=auto"]
    config = TrainConfig.load("tiny-cpu", settings)
    read = read_base(config)
    targets = find_targets(read.skeleton, config)
    rows = TitoSFTDataset(data, weights=config.weights, pack=config.pack)
    plan = make_plan(config, read, targets, rows, world=1, stops=frozenset())
    record = Record(Path(folder), {}, writes=False)
    run = Run(config, lambda _: None)
    dtype = torch.bfloat16 if config.dtype == "bfloat16" else torch.float32
    work = Work(run, read, targets, rows, None, plan, record)
    return work._trainer(dtype, Rhythm(config, record, lambda _: None, None)), read


def by_trainer(held, now):
    clock = Clock(now)
    held.add_callback(clock)
    held.train()
    return clock.steps


def by_loop(held, now):
    """The same model, rows, loss and optimiser in a dozen lines of PyTorch."""
    model, data = held.model, held.train_rows
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3)
    loader = torch.utils.data.DataLoader(data, batch_size=1, collate_fn=TitoCollator())
    ends = [now()]
    model.train()
    for batch in loader:
        batch = {name: value.to(held.args.device) for name, value in batch.items() if name != "rows"}
        with held.compute_loss_context_manager():
            out = model(**batch, chunked_loss=True)
        (out.loss / out.tokens).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        ends.append(now())
    return np.diff(ends).tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"layers": 2, "hidden": 64, "vocabulary": 4096, "length": 2048, "steps": 12}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)

    def now():
        if given.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    with tempfile.TemporaryDirectory() as made_in:
        folder = base(Path(made_in) / "model", given)
        data = made(Path(made_in) / "rows.parquet", given)
        print(f"{given.layers} x {given.hidden}, {given.length} ids a step, {given.device}")

        def median(times):
            return statistics.median(times[2:])

        plain, ours = [], []
        for _ in range(2):
            plain.append(median(by_loop(trainer(folder, data, given, "loss=chunked")[0], now)))
            ours.append(median(by_trainer(trainer(folder, data, given, "loss=chunked")[0], now)))
        a, b = min(plain), min(ours)
        print(f"plain PyTorch loop      {1000 * a:8.1f} ms a step {given.length / a:10.0f} ids/s")
        print(f"TitoSFTTrainer          {1000 * b:8.1f} ms a step {given.length / b:10.0f} ids/s  {b / a - 1:+.1%}")

        kinds = [("float32", ["bf16=false", "dtype=float32"]), ("bfloat16", ["bf16=true", "dtype=bfloat16"])]
        for kind, more in kinds if given.device == "cuda" else []:
            for loss in ("chunked", "fused"):
                torch.cuda.reset_peak_memory_stats()
                seconds = median(by_trainer(trainer(folder, data, given, f"loss={loss}", *more)[0], now))
                peak = torch.cuda.max_memory_allocated() / 2**30
                print(f"{kind}, {loss:<8} {given.length / seconds:18.0f} ids/s, peak {peak:.2f} GiB")
            for attention in ("sdpa", "flash_attention_2"):
                pack = [f"pack={2 * given.length}", f"attention={attention}", *more]
                try:
                    held, read = trainer(folder, data, given, *pack)
                    print(f"{kind}, {attention}: {check_isolation(held, held.train_rows, read).text}")
                except (ImportError, ValueError) as error:
                    print(f"{kind}, {attention}: {error}")


if __name__ == "__main__":
    main()
