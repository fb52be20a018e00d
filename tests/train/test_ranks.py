"""Stopped and resumed, on one process and on two: the same bits, the same rows, and no row twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tito
from safetensors.torch import load_file
from tito.train import TrainConfig, train
from trained import record

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """Seven rows: they divide by nothing."""
    random = np.random.default_rng(1)
    path = tmp_path_factory.mktemp("seven") / "seven.parquet"
    rows = [random.integers(0, 900, n).tolist() for n in (9, 4, 12, 6, 8, 5, 10)]
    pq.write_table(pa.table({"input_ids": [r[:3] for r in rows], "output_ids": [r[3:] for r in rows]}), path)
    return path


def settings(models, data, output, *more):
    given = {
        "base": models["qwen3"],
        "data": data,
        "output": output,
        "lora_rank": 4,
        "lora_dropout": 0.2,
        "epochs": 2,
        "save_every": 1,
        "keep": 9,
        "metric": "last",
        "probe": "stopping:probe",
        "probe_every": 1,
    }
    return [*(f"{key}={value}" for key, value in given.items()), *more]


def alone(models, data, output, *more, stop=None, monkeypatch=None):
    if stop is not None:
        monkeypatch.setenv("TITO_STOP", str(stop))
    return train(TrainConfig.load("tiny-cpu", settings(models, data, output, *more)), say=lambda _: None)


def ranks(models, data, output, *more, stop=None, count=2, entry=("-m", "tito.train")):
    """`torchrun -m tito.train` on the CPU; the code it ends with and what it said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "--master_port", "0"]
    command += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", *entry, "tiny-cpu"]
    path = os.pathsep.join([str(HERE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **({"TITO_STOP": str(stop)} if stop else {})}
    done = subprocess.run(
        [*command, *settings(models, data, output, f"world={count}", *more)],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stderr


def same_bits(a, b):
    one, other = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (a, b))
    assert one.keys() == other.keys()
    return all(bool((one[key] == other[key]).all()) for key in one)


def losses(output):
    return {m["step"]: m["loss"] for m in record(output)["metrics"] if "loss" in m}


@pytest.fixture(scope="module")
def straight(models, seven, tmp_path_factory):
    output = tmp_path_factory.mktemp("straight")
    alone(models, seven, output, "accumulate=2")
    return output


def test_a_resumed_run_is_the_straight_run_bit_for_bit(models, seven, straight, tmp_path, monkeypatch):
    # 7 rows, 2 a step: 4 steps an epoch. Stopped in the middle of the second one.
    with pytest.raises(KeyboardInterrupt):
        alone(models, seven, tmp_path / "out", "accumulate=2", stop=6, monkeypatch=monkeypatch)
    told = record(tmp_path / "out")
    assert (told["state"], told["stopped"], told["steps_planned"]) == ("stopped", "interrupted", 8)
    assert not (tmp_path / "out" / "adapter").exists()
    monkeypatch.delenv("TITO_STOP")
    alone(models, seven, tmp_path / "out", "accumulate=2", "resume=last")
    assert record(tmp_path / "out")["resumed_from"].endswith("checkpoint-5")
    assert same_bits(straight, tmp_path / "out")
    # The record tells the whole run, not its second part.
    assert losses(straight) == losses(tmp_path / "out")


def test_patience_with_equals_runs_out_where_it_would_have(models, seven, tmp_path, monkeypatch):
    """Each equal checkpoint becomes the best one, so the best one does not say since when nothing got better."""
    given = ["accumulate=2", "metric=probe", "probe=stopping:same", "patience=4"]
    straight = alone(models, seven, tmp_path / "straight", *given)
    assert (straight["steps_done"], straight["stopped"]) == (5, "no better probe in 4 evaluations")
    with pytest.raises(KeyboardInterrupt):
        alone(models, seven, tmp_path / "out", *given, stop=4, monkeypatch=monkeypatch)
    monkeypatch.delenv("TITO_STOP")
    resumed = alone(models, seven, tmp_path / "out", *given, "resume=last")
    assert resumed["resumed_from"].endswith("checkpoint-3")
    assert (resumed["steps_done"], resumed["stopped"]) == (5, "no better probe in 4 evaluations")


def test_a_machine_with_less_memory_goes_on_with_the_same_order(models, seven, tmp_path, monkeypatch):
    """Every row once an epoch, although what stays decoded is another part of the file; another order is refused."""
    from tito.train import dataset, table, trainer

    rows = pq.read_table(seven)
    ungrouped = tmp_path / "rows.parquet"
    pq.write_table(pa.concat_tables([rows] * 4), ungrouped, row_group_size=2)
    monkeypatch.setattr(dataset, "_STRETCH", 16)
    seen, step = [], trainer.TitoSFTTrainer.training_step

    def watched(self, model, inputs, *more, **others):
        seen.append((self.state.global_step, inputs["rows"].ravel().tolist()))
        return step(self, model, inputs, *more, **others)

    monkeypatch.setattr(trainer.TitoSFTTrainer, "training_step", watched)
    given = ["batch=2", "accumulate=2", "epochs=1"]
    monkeypatch.setattr(table, "fair_share", lambda: 1 << 30)
    with pytest.raises(KeyboardInterrupt):
        alone(models, ungrouped, tmp_path / "out", *given, stop=4, monkeypatch=monkeypatch)
    monkeypatch.delenv("TITO_STOP")
    monkeypatch.setattr(table, "fair_share", lambda: 1)
    # Step 4 was trained and not saved: it is trained again.
    seen = [part for part in seen if part[0] < 3]
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_STRETCH", 32)
        with pytest.raises(tito.UsageError, match=r"resume: order was sha256:"):
            alone(models, ungrouped, tmp_path / "out", *given, "resume=last")
    alone(models, ungrouped, tmp_path / "out", *given, "resume=last")
    assert sorted(row for _, rows in seen for row in rows) == list(range(28))
    assert record(tmp_path / "out")["plan"]["rows_kept"] == 1


def test_a_checkpoint_goes_on_in_another_folder(models, seven, straight, tmp_path):
    """It is held against the record of its own run, whatever lies in the new output."""
    checkpoint = straight / "checkpoints" / "checkpoint-5"
    given = ["accumulate=2", f"resume={checkpoint}"]
    output = tmp_path / "out"
    alone(models, seven, output, *given)
    assert same_bits(straight, output)
    assert losses(straight) == losses(output)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(tito.UsageError, match=r"resume: lr was 0.001, now 0.0001"):
        alone(models, seven, other, *given, "lr=1e-4")
    # A record in the output that says what is asked now is another run's.
    told = record(straight)
    (other / "tito_train.json").write_text(json.dumps({**told, "config": {**told["config"], "lr": 1e-4}}))
    with pytest.raises(tito.UsageError, match=r"resume: lr was 0.001, now 0.0001"):
        alone(models, seven, other, *given, "lr=1e-4")
    with pytest.raises(tito.UsageError, match="holds checkpoints of another run"):
        alone(models, seven, output, *given)
    lost = tmp_path / "lost" / "checkpoint-5"
    shutil.copytree(checkpoint, lost)
    with pytest.raises(tito.DataError, match=r"tito_train.json: .*No such file") as error:
        alone(models, seven, other, "accumulate=2", f"resume={lost}")
    assert "leave checkpoints in their run's folder" in error.value.hint


def test_two_ranks_are_one_process_with_twice_the_accumulation(models, seven, tmp_path):
    one = alone(models, seven, tmp_path / "one", "accumulate=4", "lora_dropout=0")
    code, said = ranks(models, seven, tmp_path / "two", "accumulate=2", "lora_dropout=0")
    assert code == 0, said
    two = record(tmp_path / "two")
    assert (one["plan"]["fillers"], two["plan"]["fillers"]) == (0, 1)
    assert one["plan"]["optimiser_steps"] == two["plan"]["optimiser_steps"] == 4
    a, b = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert a.keys() == b.keys()
    assert all(np.isclose(a[step], b[step], rtol=1e-5) for step in a)
    # Fillers carry no loss and no row is there twice: an epoch has as many loss tokens on two ranks as on one.
    counted = [[m["loss_tokens"] for m in of["metrics"] if "loss" in m] for of in (one, two)]
    assert counted[0] == counted[1]
    assert sum(counted[0][:2]) == sum(len(o) for o in pq.read_table(seven)["output_ids"].to_pylist())
    first, second = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("one", "two"))
    assert all(np.allclose(first[key], second[key], rtol=1e-3, atol=1e-6) for key in first)


def test_two_ranks_resume_bit_for_bit(models, seven, tmp_path):
    code, said = ranks(models, seven, tmp_path / "straight", "accumulate=1")
    assert code == 0, said
    code, _ = ranks(models, seven, tmp_path / "out", "accumulate=1", stop=7)
    assert code != 0
    code, said = ranks(models, seven, tmp_path / "out", "accumulate=1", "resume=last")
    assert code == 0, said
    assert record(tmp_path / "out")["resumed_from"].endswith("checkpoint-6")
    assert same_bits(tmp_path / "straight", tmp_path / "out")


def test_shards_of_two_ranks_are_one_process_and_resume(models, seven, tmp_path):
    """FSDP2: the same losses as DDP on two ranks, the same bits after a stop, and an adapter that is whole."""
    sharded = {"entry": (str(HERE / "sharded.py"),)}
    more = ["accumulate=1", "lora_dropout=0", "fsdp=true", "probe=sharded:probe"]
    code, said = ranks(models, seven, tmp_path / "straight", *more, **sharded)
    assert code == 0, said
    # What cannot be looked at while the weights lie in pieces is said, not left out.
    checks = {check["name"]: check for check in record(tmp_path / "straight")["checks"]}
    for name in ("canary", "base_loss", "base_probe", "reload"):
        assert checks[name]["ok"] is None
        assert f"check       {name}: not run: under FSDP the " in said
    assert checks["isolation"]["text"] == "nothing is packed"
    assert record(tmp_path / "straight")["canary_batches"] == 1
    one = alone(models, seven, tmp_path / "one", "accumulate=2", "lora_dropout=0")
    assert {"canary", "base_loss", "base_probe", "reload"} <= {c["name"] for c in one["checks"] if c["ok"]}
    a, b = losses(tmp_path / "one"), losses(tmp_path / "straight")
    assert a.keys() == b.keys()
    assert all(np.isclose(a[step], b[step], rtol=1e-5) for step in a)
    first, second = (load_file(tmp_path / n / "adapter" / "adapter_model.safetensors") for n in ("one", "straight"))
    assert first.keys() == second.keys()
    assert all(np.allclose(first[key], second[key], rtol=1e-3, atol=1e-6) for key in first)
    assert one["state"] == record(tmp_path / "straight")["state"] == "done"
    code, _ = ranks(models, seven, tmp_path / "out", *more, stop=7, **sharded)
    assert code != 0
    code, said = ranks(models, seven, tmp_path / "out", *more, "resume=last", **sharded)
    assert code == 0, said
    assert same_bits(tmp_path / "straight", tmp_path / "out")


def test_what_is_resumed_must_be_the_same_run(models, seven, straight, tmp_path):
    for more, message in (
        ("lr=1e-4", "resume: lr was 0.001, now 0.0001"),
        ("batch=2", "resume: batch was 1, now 2"),
        ("seed=3", "resume: seed was 0, now 3"),
    ):
        with pytest.raises(tito.UsageError, match=message):
            alone(models, seven, straight, "accumulate=2", "resume=last", more)
    other = tmp_path / "other.parquet"
    pq.write_table(pq.read_table(seven).slice(0, 6), other)
    with pytest.raises(tito.UsageError, match="resume: data was"):
        alone(models, other, straight, "accumulate=2", "resume=last")
    with pytest.raises(tito.UsageError, match="holds checkpoints of another run"):
        alone(models, seven, straight, "accumulate=2")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("adapter_model.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-50]), "adapter_model.safetensors: "),
        ("trainer_state.json", lambda p: p.unlink(), "no trainer_state.json: it was not written to its end"),
        ("trainer_state.json", lambda p: p.write_text('{"epoch":'), "trainer_state.json: "),
        ("optimizer.pt", lambda p: p.unlink(), "no optimizer.pt: it was not written to its end"),
        ("adapter_model.safetensors", lambda p: p.unlink(), "no weights: it was not written to its end"),
    ],
)
def test_a_dead_checkpoint_is_named_and_the_one_before_is_offered(
    models, seven, straight, tmp_path, name, damage, message
):
    output = tmp_path / "out"
    shutil.copytree(straight, output)
    damage(output / "checkpoints" / "checkpoint-8" / name)
    with pytest.raises(tito.DataError, match=rf"checkpoint-8: {message}") as error:
        alone(models, seven, output, "accumulate=2", "resume=last")
    assert error.value.hint == f"resume={output / 'checkpoints' / 'checkpoint-7'} is whole"


def test_nothing_to_go_on_from(models, seven, tmp_path):
    with pytest.raises(tito.WorldError, match="no checkpoint to go on from"):
        alone(models, seven, tmp_path / "out", "resume=last")
    with pytest.raises(tito.WorldError, match="no such folder"):
        alone(models, seven, tmp_path / "out", f"resume={tmp_path / 'none'}")


def test_the_best_checkpoint_is_the_probe_s(models, seven, tmp_path):
    found = alone(models, seven, tmp_path / "out", "accumulate=2", "metric=probe", "keep=2")
    assert (found["best"]["by"], found["best"]["step"], found["best"]["metric"]) == ("probe", 4, 0)
    kept = load_file(tmp_path / "out" / "checkpoints" / "checkpoint-4" / "adapter_model.safetensors")
    written = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert all(bool((kept[key] == written[key]).all()) for key in written)
    probes = {m["step"]: m["eval_probe_score"] for m in found["metrics"] if "eval_probe_score" in m}
    assert probes == {step: -abs(step - 4) for step in range(1, 9)}


def test_a_probe_that_is_no_number_is_never_the_best_and_wears_no_patience_out(models, seven, tmp_path):
    given = ["accumulate=2", "metric=probe", "patience=2", "probe=stopping:holes"]
    found = alone(models, seven, tmp_path / "out", *given)
    assert (found["state"], found["stopped"], found["steps_done"]) == ("done", None, 8)
    assert (found["best"]["step"], found["best"]["metric"]) == (8, 8.0)
    [metric] = [check for check in found["checks"] if check["name"] == "metric"]
    assert (metric["ok"], metric["no_number"]) == (True, [1, 3, 5])
    assert metric["text"] == "probe was NaN in 3 of 8 evaluations (steps 1, 3, 5), and those chose nothing"


def test_a_probe_that_never_is_a_number_chooses_nothing(models, seven, tmp_path):
    with pytest.raises(tito.DataError, match=r"check metric: probe was NaN in 8 of 8 evaluations") as error:
        alone(models, seven, tmp_path / "out", "accumulate=2", "metric=probe", "patience=2", "probe=stopping:no_number")
    assert "which nothing has judged" in error.value.hint
    told = record(tmp_path / "out")
    assert (told["state"], told["best"]["by"]) == ("failed", "last step: no probe was measured")


@pytest.mark.parametrize(
    ("raised", "state", "stopped"),
    [
        (OSError(5, "Input/output error"), "failed", "OSError: [Errno 5] Input/output error"),
        (ValueError("no such column"), "failed", "ValueError: no such column"),
        (RuntimeError("CUDA error: an illegal memory access"), "failed", "RuntimeError: CUDA error: an illegal"),
        (AssertionError(), "failed", "AssertionError"),
        (SystemExit(3), "failed", "SystemExit: 3"),
        (KeyboardInterrupt(15), "stopped", "interrupted"),
    ],
)
def test_every_end_stands_in_the_record(models, seven, tmp_path, monkeypatch, raised, state, stopped):
    from tito.train.trainer import TitoSFTTrainer

    def ends(self, *given, **more):
        assert record(tmp_path / "out")["state"] == "running"
        raise raised

    monkeypatch.setattr(TitoSFTTrainer, "training_step", ends)
    with pytest.raises(type(raised)) as error:
        alone(models, seven, tmp_path / "out")
    assert error.value is raised
    told = record(tmp_path / "out")
    assert (told["state"], told["stopped"][: len(stopped)]) == (state, stopped)


def test_sigterm_writes_an_end(models, seven, tmp_path):
    path = os.pathsep.join([str(HERE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tito",
            "train",
            "tiny-cpu",
            *settings(models, seven, tmp_path / "out", "probe=stopping:term"),
        ],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    _, said = process.communicate(timeout=300)
    assert process.returncode == 143, said
    assert (record(tmp_path / "out")["state"], record(tmp_path / "out")["stopped"]) == ("stopped", "interrupted")


def test_patience_stops_early_and_the_record_says_so(models, seven, tmp_path):
    found = alone(models, seven, tmp_path / "out", "accumulate=2", "metric=probe", "patience=2")
    assert (found["steps_done"], found["steps_planned"]) == (6, 8)
    assert found["stopped"] == "no better probe in 2 evaluations"


def test_fewer_ranks_than_asked_for_are_refused(models, seven, tmp_path):
    with pytest.raises(tito.DataError, match="check divisibility: 2 ranks were asked for, 1 are there") as error:
        alone(models, seven, tmp_path / "out", "world=2")
    assert "torchrun --nproc_per_node 2" in error.value.hint


def test_the_probe_may_be_a_class_and_must_be_there(models, seven, tmp_path):
    found = alone(models, seven, tmp_path / "out", "probe=stopping:Odd", "max_steps=2")
    assert [m["eval_probe_other"] for m in found["metrics"] if "eval_probe_other" in m] == [1.0, 1.0]
    with pytest.raises(tito.UsageError, match="probe stopping:nothing"):
        alone(models, seven, tmp_path / "b", "probe=stopping:nothing", "max_steps=1")
