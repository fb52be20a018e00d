"""Loading and unloading adapters on servers that say Success, honestly or not."""

import json
import re
import shutil

import adapters
import pytest
from mock_server import Mock, running
from tito.adapter import LoraAdapter
from tito.cli import main
from tito.errors import DataError, UsageError, WorldError
from tito.serve.client import ContextOverflowError, RefusedError, Server
from tito.serve.effect import PROMPTS, effect
from tito.serve.swap import load, unload


@pytest.fixture
def two(tmp_path):
    return [LoraAdapter(adapters.write_adapter(tmp_path / f"a{seed}", seed=seed)) for seed in (1, 2)]


def test_an_adapter_gets_the_name_of_its_content(two):
    with running(Mock()) as url:
        server = Server(url)
        names = [load(server, adapter, PROMPTS)[0].name for adapter in two]
        assert names == [f"base-lora-{a.hash[7:19]}" for a in two]
        assert len(set(names)) == 2
        assert [card.root for card in server.models()[1:]] == [str(a.folder) for a in two]
        served, seen = load(server, two[0], PROMPTS)
        assert (served.name, seen) == (names[0], "ids differ on 5 of 5 prompts, logprobs by up to 0")
        unload(server, names[0])
        assert [card.id for card in server.models()] == ["base", names[1]]


def test_a_server_that_keeps_the_old_weights_is_caught(two):
    """Success is said, the new root is listed, and the old weights answer."""
    mock = Mock(bugs={"keeps"})
    with running(mock) as url:
        server = Server(url)
        load(server, two[0], PROMPTS, name="student")
        with pytest.raises(DataError, match="adapter not swapped: student answers as before the load") as caught:
            load(server, two[1], PROMPTS, name="student", in_place=True)
        assert mock.models()["data"][1]["root"] == str(two[1].folder)
        assert caught.value.hint == "load it under a name of its own: leave --name out"
        # Under the content's own name the same server is right.
        assert load(server, two[1], PROMPTS)[0].name.startswith("base-lora-")


@pytest.mark.parametrize("noise", [0.005, 0.2])
def test_noise_is_no_swap(two, noise):
    """No two answers of one model are equal to the last bit; the server that keeps the old weights is still caught."""

    def same(weights, prompt):
        return [1, 2, 3]

    mock = Mock(bugs={"keeps", "noisy"}, answer=same)
    with running(mock) as url:
        server = Server(url)
        load(server, two[0], PROMPTS, name="student")
        mock.noise = noise
        with pytest.raises(DataError, match="adapter not swapped: student answers as before the load"):
            load(server, two[1], PROMPTS, name="student", in_place=True)
    with running(Mock(bugs={"noisy"}, answer=same)) as url:
        load(Server(url), two[0], PROMPTS, name="student")
        assert load(Server(url), two[1], PROMPTS, name="student", in_place=True)[0].name == "student"


@pytest.mark.parametrize("bugs", [set(), {"old_files"}])
def test_a_folder_that_was_trained_again_is_another_adapter(tmp_path, bugs):
    """The name and the content are new, the path is not, and an engine may know files by their path."""
    first = LoraAdapter(adapters.write_adapter(tmp_path / "adapter", seed=1))
    with running(Mock(bugs=bugs)) as url:
        server = Server(url)
        old = load(server, first, PROMPTS)[0]
        shutil.rmtree(tmp_path / "adapter")
        second = LoraAdapter(adapters.write_adapter(tmp_path / "adapter", seed=2))
        assert second.hash != first.hash
        if not bugs:
            assert load(server, second, PROMPTS)[0].name != old.name
            return
        with pytest.raises(DataError, match=f"adapter not swapped: base-lora-[0-9a-f]+ answers as {old.name} does"):
            load(server, second, PROMPTS)


def test_one_content_may_have_two_names(two):
    with running(Mock()) as url:
        server = Server(url)
        student = load(server, two[0], PROMPTS, name="student")[0]
        own = load(server, two[0], PROMPTS, recorded=[student])[0]
        unload(server, own.name)
        # Without the record nobody knows what `student` is.
        with pytest.raises(DataError, match="answers as student does") as error:
            load(server, two[0], PROMPTS)
        assert "it may be of the same content" in error.value.hint


def test_the_old_weights_are_caught_behind_an_unload_too(two):
    """The name is free again, and the engine still has what it once meant."""
    with running(Mock(bugs={"keeps"})) as url:
        server = Server(url)
        first = load(server, two[0], PROMPTS)[0]
        server.load_lora("student", str(two[0].folder))
        server.unload_lora("student")
        with pytest.raises(DataError, match=f"adapter not swapped: student answers as {first.name} does"):
            load(server, two[1], PROMPTS, name="student")


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        ("deaf", r"adapter not swapped: base-lora-\w+ answers as base does \(ids differ on 0 of 5 prompts"),
        ("mixes", r"adapter not swapped: base-lora-\w+ answers as base-lora-\w+ does"),
    ],
)
def test_other_ways_not_to_swap(two, bug, said):
    with running(Mock(bugs={bug})) as url:
        server = Server(url)
        if bug == "mixes":
            load(server, two[0], PROMPTS)
        with pytest.raises(DataError, match=said):
            load(server, two[1], PROMPTS)


def test_a_listing_with_the_old_root_is_caught(two):
    with running(Mock(bugs={"old_root"})) as url:
        server = Server(url)
        load(server, two[0], PROMPTS, name="student")
        said = f"adapter not swapped: student is listed from {two[0].folder}, not {two[1].folder}"
        with pytest.raises(DataError, match=re.escape(said)):
            load(server, two[1], PROMPTS, name="student", in_place=True)


def test_a_name_in_use_is_refused(two, capsys):
    with running(Mock()) as url:
        load(Server(url), two[0], PROMPTS, name="student")
        assert main(["serve", "load", str(two[1].folder), "--url", url, "--name", "student"]) == 2
    said = f"error: {url}: student is served already, from {two[0].folder}\n"
    assert (
        capsys.readouterr().err == said + "hint: leave --name out: the content's own name is free; or say --in-place\n"
    )


def test_the_command_line_keeps_the_record(two, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = adapters.write_base(tmp_path / "base")
    with running(Mock(context=64)) as url:
        assert main(["serve", "check", str(base), "--url", url]) == 0
        assert main(["serve", "load", str(two[0].folder), "--url", url]) == 0
        name = capsys.readouterr().out.split()[-1]
        record = json.loads((tmp_path / "serving.json").read_text())
        assert [(a["name"], a["hash"], a["folder"]) for a in record["adapters"]] == [
            (name, two[0].hash, str(two[0].folder))
        ]
        assert record["verified"] == [f"{name}: ids differ on 5 of 5 prompts, logprobs by up to 0"]
        assert (record["engine"], record["engine_version"], record["context_length"]) == ("vllm", "0.32.0", 64)
        other = adapters.write_adapter(tmp_path / "o", linears={"model.layers.0.mlp.up_proj": (32, 65)})
        assert main(["serve", "load", str(other), "--url", url]) == 1
        assert "the adapter is of another base" in capsys.readouterr().err
        assert main(["serve", "unload", name, "--url", url]) == 0
        assert json.loads((tmp_path / "serving.json").read_text())["adapters"] == []
        assert main(["serve", "unload", name, "--url", url]) == 2
    assert capsys.readouterr().err.endswith(f"error: {url}: no adapter {name} is served\nhint: served: none\n")


def test_a_rank_that_the_server_has_no_room_for(two, capsys):
    with running(Mock(bugs={"small"})) as url:
        assert main(["serve", "load", str(two[0].folder), "--url", url]) == 1
    err = capsys.readouterr().err
    assert err == (
        f"error: {url}/v1/load_lora_adapter: 500: LoRA rank 64 is greater than max_lora_rank 16.\n"
        "hint: restart the server with --max-lora-rank 8\n"
    )


def test_an_adapter_that_does_nothing_is_not_even_sent(tmp_path):
    idle = LoraAdapter(adapters.write_adapter(tmp_path / "idle", size=0))
    mock = Mock()
    with running(mock) as url, pytest.raises(DataError, match="every B is zero"):
        load(Server(url), idle, PROMPTS)
    assert mock.requests == []


def test_an_unload_that_does_nothing_is_caught(two):
    with running(Mock(bugs={"stubborn"})) as url:
        name = load(Server(url), two[0], PROMPTS)[0].name
        with pytest.raises(DataError, match=f"{name} is still served after its unload"):
            unload(Server(url), name)
        with pytest.raises(UsageError, match="no adapter base is served"):
            unload(Server(url), "base")


@pytest.mark.parametrize(
    ("bug", "error", "said"),
    [
        ("no_ids", DataError, "the reply has no token_ids"),
        ("other_prompt", DataError, "3 prompt ids were sent, and 3 others seen"),
        ("miscount", DataError, "usage says 9 completion tokens, and 8 ids came"),
        ("garbage", DataError, "the reply has no choices"),
        ("faulty", RefusedError, "500: EngineCore encountered an issue."),
    ],
)
def test_replies_are_not_taken_on_trust(bug, error, said):
    with running(Mock(bugs={bug})) as url:
        with pytest.raises(error, match=said) as caught:
            Server(url).complete("base", [1, 2, 3], max_tokens=8)
        assert caught.value.hint


def test_ids_go_in_and_come_out_as_they_are():
    with running(Mock(answer=lambda weights, prompt: [7, 7, 9])) as url:
        answer = Server(url + "/v1/").complete("base", [5, 0, 5], max_tokens=8)
    assert (answer.prompt_ids, answer.output_ids) == ((5, 0, 5), (7, 7, 9))


@pytest.mark.parametrize("length", [10, 11])
def test_an_overflow_has_its_own_type(length):
    with running(Mock(context=10)) as url, pytest.raises(ContextOverflowError) as caught:
        Server(url).complete("base", range(length), max_tokens=2)
    assert (caught.value.code, caught.value.status) == ("context_overflow", 400)


def test_a_wrong_port_is_the_worlds_fault(two, capsys):
    assert main(["serve", "load", str(two[0].folder), "--url", "http://127.0.0.1:9"]) == 3
    err = capsys.readouterr().err
    assert err.startswith("error: http://127.0.0.1:9/v1/models: no answer: ")
    assert err.endswith("hint: is the server up, and this its port? its log says\n")
    with pytest.raises(WorldError):
        Server("http://127.0.0.1:9").models()
    with pytest.raises(UsageError, match="no URL of a server"):
        Server("127.0.0.1:8000")


def test_logprobs_tell_models_apart_whose_ids_agree():
    def same(weights, prompt):
        return [1, 2, 3]

    with running(Mock(adapters={"a": "/a", "b": "/b"}, answer=same)) as url:
        seen = effect(Server(url), "a", "b", PROMPTS)
        assert (seen.ids_differ, seen.any) == (0, True)
        assert not effect(Server(url), "a", "a", PROMPTS).any
