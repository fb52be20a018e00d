"""The probe of a run: what the model says, greedily, as an obvious loop gives it; and the best checkpoint by it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tito
import torch
from tito.cli import main
from tito.probe.prompts import read_prompts
from tito.train import TrainConfig, train
from tito.train.replies import greedy
from tito.train.work import Work
from trained import record
from transformers import AutoModelForCausalLM

QUICK = ["accumulate=2", "max_steps=4", "lora_rank=4", "lr=0.05", "warmup=0", "probe_n=2", "probe_tokens=6"]


def go(models, rows, output, *more, base="qwen3", data="qwen3"):
    given = [f"base={models[base]}", f"data={rows[data]}", f"output={output}", *QUICK, *more]
    said = []
    return train(TrainConfig.load("tiny-cpu", given), say=said.append), said


def one_by_one(model, prompt, most, stops):
    """Without cache, padding or batch."""
    ids, said = list(prompt), []
    while len(said) < most:
        with torch.no_grad():
            chosen = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        said.append(chosen)
        ids.append(chosen)
        if chosen in stops:
            break
    return said


@pytest.mark.parametrize("base", ["qwen3", "qwen35"])
def test_replies_are_those_of_an_obvious_loop(models, base):
    """Prompts of several lengths at once: padding is seen by nobody, linear attention included."""
    model = AutoModelForCausalLM.from_pretrained(models[base], dtype=torch.float32).eval()
    random = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 150_000, (n,), generator=random).tolist() for n in (3, 17, 1, 9)]
    free = [one_by_one(model, prompt, 6, frozenset()) for prompt in prompts]
    stops = frozenset({free[1][2]})
    assert greedy(model, prompts, most=6, stops=frozenset()) == free
    assert greedy(model, prompts, most=6, stops=stops) == [one_by_one(model, p, 6, stops) for p in prompts]


def test_the_last_step_is_looked_at_whatever_the_rhythm(models, rows, tmp_path):
    _, said = go(models, rows, tmp_path / "out", "probe_every=3", "metric=probe")
    assert [line.split()[1] for line in said if line.startswith("look ")] == ["3/4", "4/4"]


def test_what_was_asked_for_by_name_and_is_never_done_fails(models, rows, tmp_path):
    with pytest.raises(tito.DataError, match=r"check probe: score 0, of the base 0; .*call-tag 0/2") as error:
        go(models, rows, tmp_path / "out", "probe_every=4", "probe_assert=[call-tag]")
    assert "allow=[probe] goes on in spite of it" in error.value.hint
    go(models, rows, tmp_path / "allowed", "probe_every=4", "probe_assert=[call-tag]", "allow=[probe]")


@pytest.fixture(scope="module")
def probed(models, rows, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "probed"
    found, said = go(models, rows, output, f"val={rows['qwen3-acts']}", "probe_every=2", "probe_tokens=50")
    return output, found, said


def test_a_number_of_steps_is_enough_to_be_probed(probed, rows):
    """Adapter and base are asked the prompts of `val`; what recorded replies all do is asserted, unasked."""
    _, found, said = probed
    assert found["config"]["probe"] == "replies"
    looks = {m["step"]: m for m in found["metrics"] if "eval_probe_score" in m}
    assert list(looks) == [2, 4]
    names = {"score", "ids_differ", "call-tag", "no-think", "sends-message", "ends", "no-parrot"}
    assert {key.removeprefix("eval_probe_") for key in looks[4] if "probe" in key} == names
    assert found["best"]["by"] == "probe"
    assert found["probe"]["before"]["ids_differ"] == 0
    assert found["probe"]["after"]["ids_differ"] == looks[found["best"]["step"]]["eval_probe_ids_differ"] > 0
    [plan] = [line for line in said if line.startswith("best ")]
    assert f"by probe; replies to 2 prompts of {rows['qwen3-acts']} (" in plan
    assert plan.endswith(", every 2 steps")
    assert [line.split("  ")[0] for line in said if line.startswith("look ")] == ["look 2/4", "look 4/4"]


def test_the_score_is_the_mean_share_of_what_is_asserted(models, rows, tmp_path):
    asserted = ["no-think", "ends", "stopping:even"]
    found, said = go(models, rows, tmp_path / "out", "probe_every=4", f"probe_assert={json.dumps(asserted)}")
    after = found["probe"]["after"]
    assert after["score"] == pytest.approx(sum(after[name] for name in asserted) / 3)
    [check] = [line for line in said if line.startswith("check       probe: ")]
    assert "; ids differ from the base's on " in check
    assert all(f"{name} " in check for name in asserted)


def test_what_the_base_does_already_does_not_count(probed):
    """The score of a base that neither thinks nor copies would be above 0 before it learnt anything."""
    _, found, said = probed
    told = next(check for check in found["checks"] if check["name"] == "base_probe")
    asserted = ["call-tag", "no-think", "sends-message", "ends", "no-parrot"]
    by_base = [name for name in asserted if found["probe"]["before"][name] == 1]
    assert {"no-think", "no-parrot"} <= set(by_base) < set(asserted)
    assert set(told["met"]) == set(by_base)
    assert told["counted"] == [name for name in asserted if name not in by_base]
    for looked in (found["probe"]["before"], found["probe"]["after"]):
        shares = [looked[name] for name in told["counted"]]
        assert looked["score"] == pytest.approx(sum(shares) / len(shares))
    [line] = [line for line in said if line.startswith("check       base_probe: ok: ")]
    assert line.endswith(f"; not counted, because the base does it already: {', '.join(by_base)}")
    assert not any(line.startswith("warning: the base does") for line in said)


def test_rates_stand_beside_their_intervals(probed):
    _, found, said = probed
    for check in found["checks"]:
        if check["name"] in ("base_probe", "probe"):
            for share in check["shares"].values():
                low, high = share["interval"]
                assert (share["n"], 0 <= low <= share["held"] / 2 <= high <= 1, high - low > 0.5) == (2, True, True)
    for line in said:
        if line.startswith("look "):
            assert "no-think 2/2 [34%, 100%]" in line or "no-think 1/2 [9%, 91%]" in line or "no-think 0/2" in line


@pytest.mark.parametrize(
    ("given", "best", "warning"),
    [
        (
            ["probe_assert=[no-think, no-parrot]", "patience=1"],
            "last step: the base does already all that is asserted (no-think, no-parrot); "
            "patience has nothing to judge by",
            ": the last step is kept; ",
        ),
        (
            ["metric=no-think", "probe_assert=[no-think, call-tag]"],
            "probe",
            "warning: the base does no-think already: the best checkpoint is the probe's; ",
        ),
        (
            ["metric=no-think", "probe_assert=[no-parrot]"],
            "last step: the base does already all that is asserted (no-parrot)",
            ": the last step is kept; probe_assert and probe_prompts ask for more",
        ),
    ],
)
def test_nothing_is_chosen_by_what_the_base_does_already(models, rows, tmp_path, given, best, warning):
    found, said = go(models, rows, tmp_path / "out", "probe_every=1", "keep=9", *given)
    assert found["best"]["by"] == best
    assert found["steps_done"] == 4
    [line] = [line for line in said if line.startswith("warning: the base does")]
    assert warning in line
    if best.startswith("last step"):
        assert line.startswith(f"warning: {best.removeprefix('last step: ')}")
        assert found["best"]["step"] == 4


def test_what_was_named_counts_beside_what_the_base_lacks(models, rows, tmp_path):
    """A run that forgets what its base did is seen, where it was asked for."""
    found, _ = go(models, rows, tmp_path / "out", "probe_every=4", "probe_assert=[no-think, call-tag]")
    before = found["probe"]["before"]
    assert (before["no-think"], before["call-tag"], before["score"]) == (1, 0, 0.5)
    assert found["best"]["by"] == "probe"


def test_probe_and_loss_disagree_and_the_probe_decides(models, rows, tmp_path):
    """The score is best in the middle, the loss at the end."""
    given = [f"val={rows['qwen3-val']}", "eval_every=1", "max_steps=6", "probe=stopping:probe", "probe_every=1"]
    found, _ = go(models, rows, tmp_path / "a", *given, "lr=1e-3", "keep=9")
    losses = {m["step"]: m["eval_loss"] for m in found["metrics"] if "eval_loss" in m}
    lowest = min(losses, key=losses.get)
    assert lowest == 6
    assert (found["best"]["by"], found["best"]["step"]) == ("probe", 4)
    assert found["heldout"]["after"] == pytest.approx(losses[4])
    by_loss, _ = go(models, rows, tmp_path / "b", *given, "lr=1e-3", "keep=9", "metric=heldout")
    assert (by_loss["best"]["by"], by_loss["best"]["step"]) == ("heldout", lowest)


def test_a_step_that_is_saved_and_then_judged_is_the_best_with_its_own_weights(models, rows, tmp_path):
    """The checkpoint of an epoch's last step is written at the step's end, the evaluation comes at the epoch's: what it
    finds is of this checkpoint, not of an earlier one."""
    given = ["val=" + str(rows["qwen3-val"]), "eval_every=epoch", "save_every=2", "metric=heldout", "accumulate=21"]
    found, _ = go(models, rows, tmp_path / "out", *given, "lr=1e-3")
    losses = {m["step"]: m["eval_loss"] for m in found["metrics"] if "eval_loss" in m}
    assert list(losses) == [4]
    best = found["best"]
    assert (best["step"], best["metric"]) == (4, losses[4])
    assert best["checkpoint"].endswith("checkpoint-4")
    state = json.loads((tmp_path / "out" / "checkpoints" / "checkpoint-4" / "trainer_state.json").read_text())
    assert (state["best_global_step"], Path(state["best_model_checkpoint"]).name) == (4, "checkpoint-4")
    assert found["heldout"]["after"] == pytest.approx(losses[4])


def test_a_number_of_the_probe_is_a_metric_by_its_name(models, rows, tmp_path):
    found, _ = go(models, rows, tmp_path / "out", "probe=stopping:Two", "probe_every=1", "metric=other")
    assert (found["best"]["by"], found["best"]["step"], found["best"]["metric"]) == ("other", 2, 1.0)


def test_of_equals_the_lower_heldout_loss_is_the_best_and_else_the_later(models, rows, tmp_path):
    same = ["probe=stopping:same", "probe_every=1", "lr=1e-3"]
    found, _ = go(models, rows, tmp_path / "a", *same)
    assert found["best"]["step"] == 4
    # Judged by what the base likes best, trained on something else: the held-out loss rises from the start.
    prompt = list(range(1, 9))
    base = AutoModelForCausalLM.from_pretrained(models["qwen3"])
    made = {"train": [1000] * 8, "judged": one_by_one(base, prompt, 8, ())}
    for name, output in made.items():
        pq.write_table(pa.table({"input_ids": [prompt] * 6, "output_ids": [output] * 6}), tmp_path / f"{name}.parquet")
    given = [f"val={tmp_path / 'judged.parquet'}", "eval_every=1", "allow=[heldout]", "keep=9", "accumulate=1"]
    data = {"train": tmp_path / "train.parquet"}
    more = ("lr=1e-2", "warmup=0", "max_steps=6", "schedule=constant")
    found, _ = go(models, data, tmp_path / "b", *same, *given, *more, data="train")
    losses = {m["step"]: m["eval_loss"] for m in found["metrics"] if "eval_loss" in m}
    assert len(losses) == 6
    assert found["best"]["step"] == min(losses, key=losses.get) < 6


def test_without_a_probe_no_loss_decides_unasked(models, rows, tmp_path):
    found, said = go(models, rows, tmp_path / "out", f"val={rows['qwen3-val']}", "eval_every=1", "lr=1e-3")
    assert found["best"] == {"by": "last step", "step": 4}
    assert "best        by last step: nothing looks at what the model says (probe_every: N)" in said


def test_an_early_stop_is_recorded(models, rows, tmp_path):
    found, said = go(models, rows, tmp_path / "out", "probe=stopping:same", "probe_every=1", "patience=2")
    assert (found["steps_done"], found["steps_planned"], found["state"]) == (3, 4, "done")
    assert record(tmp_path / "out")["stopped"] == "no better probe in 2 evaluations"
    assert "stopped     no better probe in 2 evaluations: 3 of 4 steps" in said


def test_an_adapter_that_changes_no_reply_fails_the_run(models, rows, tmp_path):
    with pytest.raises(tito.DataError, match=r"check probe: score 0, .*ids differ from the base's on 0 of 2 prompts"):
        go(models, rows, tmp_path / "out", "probe_every=4", "lr=1e-9")
    assert record(tmp_path / "out")["state"] == "failed"


def test_merged_rows_and_captures_have_prompts_too(models, rows, tmp_path):
    given = ["probe_every=4", "probe_assert=no-think"]
    found, _ = go(models, rows, tmp_path / "out", *given, base="qwen35", data="merged")
    assert found["probe"]["after"]["ids_differ"] > 0
    merged = read_prompts(rows["merged"], 4)
    turns = {p.ids: p.output_ids for p in read_prompts(rows["qwen35"], 1000, first_turns=False)}
    assert all(turns[prompt.ids] == prompt.output_ids for prompt in merged)
    assert {prompt.turn for prompt in merged} == {0}


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        (["metric=prob"], "metric: no metric is called 'prob'", "did you mean probe?"),
        (["metric=call-tg", "probe_every=2"], "metric: no metric is called 'call-tg'", "did you mean call-tag?"),
        (["metric=not-swallowed", "probe_every=2"], "metric: no metric is called 'not-swallowed'", "one of"),
        (["metric=probe"], "metric: probe, but no probe is named", "add probe_every: N"),
        (["metric=call-tag"], "metric: call-tag, but no probe is named", "add probe_every: N"),
        (["probe=stopping:Two", "metric=othr"], "metric: the probe gives no 'othr'", "did you mean other?"),
        (["probe_assert=ends"], "probe_assert, but no replies are asked for", "add probe_every: N"),
        (["probe_every=2", "probe_assert=call-tg"], "no assertion call-tg", "did you mean call-tag?"),
        (["probe_every=2", "probe_assert=not-swallowed"], "not-swallowed: judges a server's parsers", "leave it out"),
        (["probe_every=2", "probe_n=0"], "probe_n: 0 is not above 0", "above 0"),
        (["probe_every=2", "probe=nothing"], "probe nothing: ", "replies"),
    ],
)
def test_wrong_use_word_for_word(models, rows, tmp_path, given, message, hint):
    with pytest.raises(tito.UsageError) as error:
        go(models, rows, tmp_path / "out", *given)
    assert str(error.value).startswith(message)
    assert hint in error.value.hint
    assert not (tmp_path / "out" / "adapter").exists()


def test_what_cannot_be_asked_is_said_before_anything_is_loaded(models, rows, tmp_path, capsys):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).symlink_to(models["qwen3"] / name)
    with pytest.raises(tito.UsageError, match="no tokenizer, so no reply can be read"):
        go({"bare": bare}, rows, tmp_path / "a", "probe_every=2", base="bare")
    odd = tmp_path / "odd.parquet"
    pq.write_table(pa.table({"input_ids": [[1, 2]], "output_ids": [[3]]}), odd)
    words = [f"base={models['qwen3']}", f"data={odd}", f"output={tmp_path / 'b'}", *QUICK, "--probe-every", "2"]
    assert main(["train", "tiny-cpu", *words]) == 1
    assert "odd.parquet: no rows of row schema 1" in capsys.readouterr().err


def test_a_best_step_whose_checkpoint_is_gone_is_refused(tmp_path):
    """The weights of step 5 are never written beside the number of step 10."""
    checkpoints = [tmp_path / f"checkpoint-{step}" for step in (5, 10)]
    checkpoints[0].mkdir()
    state = SimpleNamespace(
        best_global_step=10, best_model_checkpoint=str(checkpoints[0]), best_metric=0.75, global_step=12
    )
    loaded = []
    trainer = SimpleNamespace(
        state=state,
        args=SimpleNamespace(output_dir=str(tmp_path)),
        load_best=lambda: loaded.append(state.best_model_checkpoint),
    )
    work = Work.__new__(Work)
    work._config = TrainConfig.load("tiny-cpu", ["base=m", "data=d", "output=o", "probe=replies"])
    with pytest.raises(tito.DataError, match=r"checkpoint-10: not there, and step 10 was the best by probe \(0\.75\)"):
        work._choose(trainer)
    checkpoints[1].mkdir()
    best = {"by": "probe", "metric": 0.75, "step": 10, "checkpoint": str(checkpoints[1])}
    assert (work._choose(trainer), loaded) == (best, [str(checkpoints[1])])
