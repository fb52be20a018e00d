"""CooperBench's saved trajectories: names from keys and folders, compaction, segments, replies that did not parse."""

import json

import dumps
import pytest
import runs


def said(n, *, response=None, capture=True, **extra):
    """An assistant message whose call is number n."""
    made = {"timestamp": 100.0 + n, **extra}
    if capture:
        made["token_capture"] = {"prompt_token_ids": dumps.prompt(n), "output_token_ids": [9707, n, 151645]}
    if response is not None:
        made["response"] = response
    return {"role": "assistant", "content": "", "extra": made}


HEAD = [{"role": "system", "content": "s"}, {"role": "user", "content": "t"}]
TOOL = {"role": "tool", "content": "{}", "extra": {"returncode": 0}}


def trajectory(*messages, agent=1, feature=1, **more):
    keys = {"repo": "x_task", "task_id": 12, "feature_id": feature, "agent_id": f"agent{agent}", "status": "Submitted"}
    return {**keys, "messages": [*HEAD, *messages], **more}


def save(folder, name, value, indent=2):
    path = folder / "logs" / "coop" / "x_task" / "12" / "f3_f7" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent))
    return path


@pytest.mark.parametrize("indent", [None, 2])
def test_names_come_from_keys_and_folders(tmp_path, indent):
    for agent, feature in ((1, 3), (2, 7)):
        save(tmp_path, f"agent{feature}_traj.json", trajectory(said(agent), agent=agent, feature=feature), indent)
    save(tmp_path, "eval.json", {"both_passed": True, "feature1": {"passed": False}}, indent)
    save(tmp_path, "result.json", {"repo": "x_task", "agents": {}}, indent)
    save(tmp_path, "conversation.json", [{"from": "agent1", "to": "agent2", "message": "x"}], indent)
    run = runs.convert(tmp_path / "logs", tmp_path / "o.parquet")
    assert [(row["agent"], row["rollout_id"]) for row in run.rows] == [
        ("agent1", "x_task/12/f3_f7/agent1"),
        ("agent2", "x_task/12/f3_f7/agent2"),
    ]
    for row in run.rows:
        assert (row["pair_id"], row["task_id"]) == ("x_task/12/f3_f7", "x_task/12")
        assert (row["reward"], row["status"], row["turn"]) == (1.0, "ok", 0)
    assert run.report["passed_over"]["files"] == 3


@pytest.mark.parametrize(("verdict", "reward"), [(True, 1.0), (False, 0.0), (None, None), ("yes", None)])
def test_the_reward_is_the_verdict_on_the_pair(tmp_path, verdict, reward):
    save(tmp_path, "agent3_traj.json", trajectory(said(0)))
    save(tmp_path, "eval.json", {"both_passed": verdict})
    assert runs.convert(tmp_path / "logs", tmp_path / "o.parquet").rows[0]["reward"] == reward


def test_a_turn_without_capture_is_counted(tmp_path):
    path = save(tmp_path, "agent3_traj.json", trajectory(said(0), TOOL, said(1, capture=False), TOOL, said(2)))
    run = runs.convert(path, tmp_path / "o.parquet")
    assert ([row["turn"] for row in run.rows], run.counts["skipped"]) == ([0, 2], {"no_capture": 1})
    assert run.counts["examples"]["no_capture"] == [f"{path}: record 1, turn 1: no prompt ids"]


@pytest.mark.parametrize("place", ["litellm", "sglang", "vllm"])
def test_the_saved_reply_stands_in_for_the_capture(tmp_path, place):
    ids = {"litellm": {"provider_specific_fields": {"token_ids": [5, 151645]}}, "vllm": {"token_ids": [5, 151645]}}
    choice = ids.get(place) or {
        "provider_specific_fields": {"response_token_ids": [5, 151645], "prompt_token_ids": dumps.prompt(0)}
    }
    response = {"id": "c", "choices": [{"index": 0, "finish_reason": "stop", **choice}]}
    if place != "sglang":
        response["prompt_token_ids"] = dumps.prompt(0)
    path = save(tmp_path, "agent3_traj.json", trajectory(said(0, capture=False, response=response)))
    [row] = runs.convert(path, tmp_path / "o.parquet").rows
    assert (row["input_ids"], row["output_ids"], row["call_id"]) == (dumps.prompt(0), [5, 151645], "c")


def test_a_capture_beside_a_reply_is_read_once(tmp_path):
    response = {"id": "c9", "choices": [{"finish_reason": "stop", "stop_reason": None, "token_ids": [1, 2, 3]}]}
    path = save(tmp_path, "agent3_traj.json", trajectory(said(0, response=response)))
    [row] = runs.convert(path, tmp_path / "o.parquet").rows
    assert (row["output_ids"], row["call_id"]) == ([9707, 0, 151645], "c9")


def test_a_reply_that_did_not_parse_is_flagged_not_trained(tmp_path):
    response = dumps.reply(1)
    complaint = {"role": "user", "content": "?", "extra": {"interrupt_type": "FormatError", "response": response}}
    path = save(tmp_path, "agent3_traj.json", trajectory(said(0), TOOL, complaint, said(2)))
    run = runs.convert(path, tmp_path / "o.parquet")
    assert ([row["turn"] for row in run.rows], run.counts["skipped"]) == ([0, 1], {"parse_error": 1})
    assert run.counts["examples"]["parse_error"][0].startswith(f"{path}: record 1, turn 1: ")


def compacted(turns=9):
    """A full trajectory of nine turns that was compacted twice; neighbouring segments share two turns."""
    summary = {"role": "assistant", "content": "so far", "extra": {"summary": True}}
    solver = [
        [*HEAD, *(said(n) for n in range(4))],
        [*HEAD, summary, *(said(n) for n in range(2, 7))],
        [*HEAD, summary, *(said(n) for n in range(5, turns))],
    ]
    segments = []
    for n, messages in enumerate(solver):
        segments.append({"kind": "solver", "messages": messages})
        if n < 2:
            segments.append({"kind": "summarizer", "messages": [*HEAD, summary]})
    return {"info": {}, "trajectory_format": "mini-swe-agent-1.1", "messages": solver[-1], "segments": segments}


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("indent", [None, 2])
def test_overlapping_segments_give_each_call_once(tmp_path, both, indent):
    save(tmp_path, "agent1_full_traj.json", compacted(), indent)
    if both:
        final = trajectory(*compacted()["messages"][2:], agent=1, feature=3)
        save(tmp_path, "agent3_traj.json", final, indent)
    run = runs.convert(tmp_path / "logs", tmp_path / "o.parquet")
    assert sorted(row["output_ids"][1] for row in run.rows) == list(range(9))
    assert set(run.counts["skipped"]) == {"duplicate"}
    assert {row["agent"] for row in run.rows} == {"agent1"}
    assert {row["rollout_id"] for row in run.rows} == {"x_task/12/f3_f7/agent1"}
    # What was numbered stays numbered; behind a compaction nobody knows the turn.
    assert [row["turn"] for row in run.rows if row["output_ids"][1] < 4] == [0, 1, 2, 3]


def test_two_runs_of_one_task_are_two_rollouts(tmp_path):
    for run in ("a", "b"):
        save(tmp_path / run, "agent3_traj.json", trajectory(said(0)))
    rows = runs.convert([tmp_path / "a", tmp_path / "b"], tmp_path / "o.parquet").rows
    assert [row["rollout_id"] for row in rows] == ["x_task/12/f3_f7/agent1", "x_task/12/f3_f7/agent1#2"]
    assert rows[0]["input_ids"] == rows[1]["input_ids"]


def test_a_trajectory_without_messages_is_refused(tmp_path):
    good = json.dumps(trajectory(said(0)))
    bad = json.dumps({"agent_id": "agent1", "feature_id": 1, "trajectory_format": "mini-swe-agent-1.1"})
    dump = dumps.write(tmp_path / "d.jsonl", good, bad)
    run = runs.convert(dump, tmp_path / "o.parquet", bad="skip")
    assert (len(run.rows), run.counts["skipped"]) == (1, {"unknown_record": 1})
