"""A run's handoffs, each broken in turn; and versions that contradict each other."""

import json
import os
import shutil
import sys

import adapters
import pytest
import tito
from tito.adapter import BaseModel, LoraAdapter
from tito.adapter.write import export
from tito.cli import main
from tito.doctor.versions import Package, conflicts
from tito.files import file_hash
from tito.serve.record import ServedAdapter, Serving

CAPTURES = os.path.join(os.path.dirname(__file__), "captures")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder as the steps leave it."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copy(f"{CAPTURES}/qwen3/calls.jsonl", folder)
    tito.convert("calls.jsonl", "rows.parquet")
    base = adapters.write_base(tmp_path / "base")
    rows = tito.open_rows("rows.parquet").metadata
    [profile] = json.loads((folder / "rows.parquet.manifest.json").read_text())["profiles"]
    (folder / "out").mkdir()
    trained = adapters.write_adapter(folder / "out" / "adapter")
    record = {
        "version": 1,
        "state": "done",
        "data": {"rows.parquet": file_hash(folder / "rows.parquet")},
        "val": {},
        "rows": {"tito.tokenizer_hash": rows["tito.tokenizer_hash"]},
        "base_hash": BaseModel(base).hash,
        "tokenizer_hash": profile["tokenizer_hash"],
        "template_hash": profile["template_hash"],
        "adapter_hash": LoraAdapter(trained).hash,
    }
    (folder / "out" / "tito_train.json").write_text(json.dumps(record))
    served = export(LoraAdapter(trained), folder / "served", keys="wrapper")
    Serving(
        url="http://127.0.0.1:8000",
        engine="vllm",
        engine_version="0.32.0",
        model="base",
        base=str(base),
        base_hash=BaseModel(base).hash,
        architecture="Qwen3ForCausalLM",
        dtype="bfloat16",
        context_length=64,
        tool_parser=None,
        reasoning_parser=None,
        tokenizer_hash=profile["tokenizer_hash"],
        template_hash=profile["template_hash"],
        adapters=[ServedAdapter.of(served, "base")],
    ).save(folder)
    probe = {"ids_differ": 2, "assertions": {}, "passed": True, "problems": [], "verdict": "trained 100%"}
    probe |= {"serving_hash": file_hash(folder / "serving.json"), "adapter_hash": served.hash}
    (folder / "probe.json").write_text(json.dumps(probe))
    return folder


def change(path, **facts):
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **facts}))


def first_broken(run, capsys):
    code = main(["doctor", str(run), "--json"])
    out, err = capsys.readouterr()
    first = json.loads(out)["first_broken"]
    assert (code, err.startswith("error: ")) == ((0, False) if first is None else (1, True))
    return first, err


def test_a_sound_run(run, capsys):
    assert main(["doctor", str(run)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    steps = [line.split()[:2] for line in out.splitlines()]
    assert {step for step, _ in steps} == {"data", "rows", "train", "merge", "serve", "probe"}
    assert {state for _, state in steps} == {"ok"}
    hashes = {line.split()[2] for line in out.splitlines()}
    told = [
        file_hash(run / "rows.parquet"),
        LoraAdapter(run / "out" / "adapter").hash,
        LoraAdapter(run / "served").hash,
    ]
    assert {hash_.partition(":")[2][:12] for hash_ in told} <= hashes
    assert [step for step, _ in steps] == sorted(
        [s for s, _ in steps], key=["data", "rows", "train", "merge", "serve", "probe"].index
    )


def spoil_adapter(folder, seed=9):
    shutil.rmtree(folder)
    adapters.write_adapter(folder, seed=seed)


BREAKS = {
    "data": lambda run: (run / "calls.jsonl").write_text("{}\n"),
    "rows": lambda run: (run / "rows.parquet").write_bytes((run / "rows.parquet").read_bytes() + b"x"),
    "train: other rows": (
        "train",
        lambda run: change(run / "out" / "tito_train.json", data={"rows.parquet": "sha256:" + "0" * 64}),
    ),
    "train: failed": (
        "train",
        lambda run: change(run / "out" / "tito_train.json", state="failed", stopped="no memory"),
    ),
    "train: other tokenizer": (
        "train",
        lambda run: change(run / "out" / "tito_train.json", tokenizer_hash="sha256:" + "1" * 64),
    ),
    "train: another adapter": ("train", lambda run: spoil_adapter(run / "out" / "adapter")),
    "train: torn adapter": (
        "train",
        lambda run: (run / "out" / "adapter" / "adapter_model.safetensors").write_bytes(b"x"),
    ),
    "train: torn record": ("train", lambda run: (run / "out" / "tito_train.json").write_text("{")),
    "merge: changed behind": ("merge", lambda run: change(run / "served" / "tito_adapter.json", hash="sha256:0")),
    "merge: of another": (
        "merge",
        lambda run: change(run / "served" / "tito_adapter.json", **{"from": {"hash": "sha256:5", "folder": "x"}}),
    ),
    "serve: base": ("serve", lambda run: change(run / "serving.json", base_hash="sha256:" + "2" * 64)),
    "serve: template": ("serve", lambda run: change(run / "serving.json", template_hash="sha256:" + "3" * 64)),
    "serve: tokenizer": ("serve", lambda run: change(run / "serving.json", tokenizer_hash="sha256:" + "4" * 64)),
    "probe": lambda run: change(run / "probe.json", passed=False, problems=["adapter has no effect"]),
    "probe: another server": (
        "probe",
        lambda run: change(run / "probe.json", serving_hash="sha256:6", adapter_hash="sha256:7"),
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_first_broken_handoff_is_named(run, capsys, name):
    step, break_it = BREAKS[name] if isinstance(BREAKS[name], tuple) else (name, BREAKS[name])
    break_it(run)
    first, err = first_broken(run, capsys)
    assert first == step
    assert err.endswith(f"hint: do {step} again; what comes after it stands on it\n")


def test_an_adapter_of_elsewhere_is_served(run, tmp_path, capsys):
    other = LoraAdapter(adapters.write_adapter(tmp_path / "other", seed=5))
    served = ServedAdapter.of(other, "base")
    record = json.loads((run / "serving.json").read_text())
    record["adapters"] = [{name: getattr(served, name) for name in ServedAdapter.__slots__}]
    (run / "serving.json").write_text(json.dumps(record))
    first, err = first_broken(run, capsys)
    assert (first, "an adapter that this run did not give" in err) == ("serve", True)
    # And one that changed under the server's feet.
    spoil_adapter(tmp_path / "other", seed=6)
    first, err = first_broken(run, capsys)
    assert (first, "changed since it was served" in err) == ("serve", True)


@pytest.mark.parametrize(("name", "step"), [("calls.jsonl", "data"), ("rows.parquet", "rows")])
def test_a_byte_that_changed_in_place_is_seen(run, capsys, monkeypatch, name, step):
    """By content, with nothing installed besides tito: the size is as it was."""
    monkeypatch.setitem(sys.modules, "xxhash", None)
    data = bytearray((run / name).read_bytes())
    data[len(data) // 2] ^= 1
    (run / name).write_bytes(data)
    assert first_broken(run, capsys)[0] == step


def test_several_breaks_name_the_earliest(run, capsys):
    for name in ("probe", "serve: base", "rows"):
        step = BREAKS[name]
        (step[1] if isinstance(step, tuple) else step)(run)
    assert first_broken(run, capsys)[0] == "rows"


def test_what_is_not_there_is_said(run, capsys):
    for name in ("serving.json", "probe.json", "calls.jsonl"):
        (run / name).unlink()
    assert main(["doctor", str(run)]) == 0
    out = capsys.readouterr().out
    assert f"serve  missing  -             no record in {run}\n" in out
    assert f"probe  missing  -             no record in {run}\n" in out
    assert "calls.jsonl: not here\n" in out


def test_a_stray_file_where_doctor_stands_is_not_the_runs(run, tmp_path, monkeypatch, capsys):
    stray = tmp_path / "elsewhere"
    stray.mkdir()
    (stray / "rows.parquet").write_bytes(b"another")
    monkeypatch.chdir(stray)
    assert main(["doctor", str(run)]) == 0
    assert "broken" not in capsys.readouterr().out


def test_folders_that_are_no_runs(tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "none")]) == 3
    assert main(["doctor", str(tmp_path)]) == 1
    assert "no manifest, no tito_train.json, no adapter, no serving.json, no probe report" in capsys.readouterr().err


def test_versions_and_conflicts(capsys):
    code = main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["versions"]["tito"] == tito.__version__
    assert told["versions"]["numpy"] is not None
    assert code == (1 if told["conflicts"] else 0)


def test_what_a_conflict_is():
    there = [
        Package(
            "vllm",
            "0.32.0",
            ("transformers<5.20,>=5.5", "torch==2.13.0", "numpy", "nothing>=1", "peft>9; extra == 'x'"),
        ),
        Package("transformers", "5.23.0"),
        Package("torch", "2.13.0+cpu"),
        Package("numpy", "2.3.5"),
        Package("peft", "0.21.2", ("torch>=2.0", "???")),
        Package("sglang", None),
    ]
    assert conflicts(there) == ["vllm 0.32.0 wants transformers<5.20,>=5.5, not 5.23.0"]
    assert conflicts([Package("vllm", "0.32.0+cpu"), Package("triton", "3.5")]) == [
        "triton is installed beside vLLM for CPUs, which then does not import: pip uninstall triton"
    ]
