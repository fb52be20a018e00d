"""What is written stays written: crashes, full disks, turned segments, and the order of record and reply."""

import json
import resource
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import tito
from records import HELLO, ask, client, ids_of, lines, recorder
from scripted_engine import MODEL, ScriptedEngine, output_ids
from tito.capture.record.log import Log


def start(folder, upstream, *options, **more):
    """(process, base URL) of a `tito record` of its own."""
    command = [sys.executable, "-m", "tito", "record", "--upstream", upstream, "--out", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    url = process.stdout.readline().strip()
    assert url, process.stderr.read()
    return process, url


def end(process, number=signal.SIGTERM):
    process.send_signal(number)
    process.communicate(timeout=30)
    return process.returncode


@pytest.mark.parametrize("durability", ["flush", "fsync"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_record_is_there_before_the_reply_ends(tmp_path, durability, stream):
    with recorder(tmp_path, durability=durability) as (url, _, _), client(url) as made:
        for number in range(1, 4):
            reply = made.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
            if stream:
                # The finish reason is the first thing that is held back for the record.
                while next(reply).choices[0].finish_reason is None:
                    pass
            written = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
            assert [line["number"] for line in written if line["type"] == "call"] == list(range(1, number + 1))


@pytest.mark.parametrize("durability", ["flush", "fsync"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_waits_for_a_record_that_takes_its_time(tmp_path, monkeypatch, durability, stream):
    look, written = Log._look, threading.Event()

    def held(log):
        if written.is_set():
            look(log)
        else:
            log._loop.call_later(0.01, log._look)

    monkeypatch.setattr(Log, "_look", held)
    came = []

    def read(url):
        body = json.dumps({"model": MODEL, "messages": HELLO, "stream": stream}).encode()
        request = urllib.request.Request(url + "/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            while part := reply.read1():
                came.append(part)

    with ThreadPoolExecutor() as pool, recorder(tmp_path, durability=durability) as (url, _, _):
        reading = pool.submit(read, url)
        while stream and b"w" not in b"".join(came):
            time.sleep(0.01)
        time.sleep(0.3)
        early = b"".join(came)
        assert bool(early) is stream
        assert b"[DONE]" not in early
        assert b'"stop"' not in early
        written.set()
        reading.result(timeout=30)
    assert b'"stop"' in b"".join(came)


def test_a_recorder_may_have_more_files_open_than_a_shell(tmp_path):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 1000))

    with ScriptedEngine().serving() as upstream:
        process, _ = start(tmp_path, upstream, preexec_fn=few)
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (1000, 1000)
        assert end(process) == 0


@pytest.mark.parametrize("durability", ["flush", "fsync"])
def test_kill_9_loses_no_call_whose_reply_was_seen(tmp_path, durability):
    seen, stop = [], threading.Event()
    with ScriptedEngine().serving() as upstream:
        process, url = start(tmp_path, upstream, "--segment-mb", "1", "--durability", durability)

        def harness(number):
            messages = [{"role": "user", "content": f"{number}" + "x" * 20_000}]
            while not stop.is_set():
                try:
                    reply = ask(url, messages, stream=number % 2 == 0)
                except openai.APIError:
                    return
                seen.append(reply[-1].id if number % 2 == 0 else reply.id)

        threads = [threading.Thread(target=harness, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while len(seen) < 150:
            stop.wait(0.01)
        assert end(process, signal.SIGKILL) == -signal.SIGKILL
        stop.set()
        for thread in threads:
            thread.join()
        # What a crash of the machine may leave: a torn line behind the whole ones.
        left = sorted(tmp_path.glob("calls-*.jsonl"))[-1]
        with left.open("ab") as file:
            file.write(b'{"tito_log": 1, "type": "call", "response": {"choices": [{"token_ids": [1, 2')
        process, url = start(tmp_path, upstream)
        seen.append(ask(url).id)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "warning: 76 bytes of a torn record were cut off the log's end" in told
        assert f"note: {tmp_path} holds earlier calls: a session of the same name counts its attempts from 1" in told
    assert not list(tmp_path.glob("*.jsonl")), "all segments are packed"
    assert len(list(tmp_path.glob("*.zst"))) > 2
    recorded = {line["response"]["id"] for line in lines(tmp_path) if "error" not in line}
    assert set(seen) <= recorded
    # Calls that were on their way when the recorder died may be in the log though nobody saw their replies.
    assert len(recorded) <= len(seen) + 4
    assert tito.check(tmp_path).skipped.get("torn_record") is None


def _small_files():
    # A write beyond this fails with EFBIG as one on a full disk does with ENOSPC: in the middle of a line.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


@pytest.mark.parametrize("durability", ["flush", "fsync"])
def test_a_full_disk_fails_calls_and_harms_nothing(tmp_path, durability):
    big = [{"role": "user", "content": "x" * 60_000}]
    with ScriptedEngine().serving() as upstream:
        process, url = start(tmp_path, upstream, "--durability", durability, preexec_fn=_small_files)
        good = [ask(url).id]
        with pytest.raises(openai.InternalServerError) as told:
            ask(url, big)
        assert (told.value.code, told.value.status_code) == ("not_written", 503)
        assert "File too large" in str(told.value)
        with pytest.raises(urllib.error.HTTPError) as health:
            urllib.request.urlopen(url.removesuffix("/v1") + "/healthz")
        assert health.value.code == 503
        with pytest.raises(openai.InternalServerError, match="the log cannot be written"):
            ask(url)
        threading.Event().wait(1.1)
        with pytest.raises(openai.APIError, match="could not be written"):
            ask(url, big, stream=True)
        threading.Event().wait(1.1)
        good += [ask(url).id, ask(url).id]
        with urllib.request.urlopen(url.removesuffix("/v1") + "/healthz") as reply:
            assert json.loads(reply.read())["status"] == "ok"
        assert end(process) == 0
    assert [line["response"]["id"] for line in lines(tmp_path)] == good
    assert tito.check(tmp_path).skipped == {}


def test_segments_turn_and_each_says_which_engine(tmp_path):
    with recorder(tmp_path, segment_bytes=3000) as (url, _, _):
        for _ in range(8):
            ask(url, headers={"x-tito-session": "s"})
    packed = sorted(path.name for path in tmp_path.glob("calls-*"))
    assert packed == [f"calls-{n:06}.jsonl.zst" for n in range(1, len(packed) + 1)]
    assert len(packed) > 1
    assert len(lines(tmp_path, "identity")) == len(packed)
    assert [line["number"] for line in lines(tmp_path)] == list(range(1, 9))
    report = tito.convert(tmp_path, tmp_path / "rows.parquet")
    assert (report.rows, report.skipped) == (8, {})


def test_two_recorders_do_not_share_a_folder(tmp_path):
    with recorder(tmp_path) as (_, _, upstream):
        with (
            pytest.raises(tito.WorldError, match="another recorder writes here") as told,
            tito.recording(upstream, tmp_path),
        ):
            pass
        assert told.value.hint == "give each recorder a folder of its own"
    with tito.recording(upstream, tmp_path):
        pass


def test_many_calls_at_once_are_all_there(tmp_path):
    """Group commit: lines of many calls in one write, none lost, none mixed up."""
    with recorder(tmp_path, durability="fsync") as (url, _, _):
        threads = [
            threading.Thread(
                target=lambda n=n: [
                    ask(url, [{"role": "user", "content": "x" * (40 * n)}], stream=bool(n % 2)) for _ in range(5)
                ]
            )
            for n in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    calls = lines(tmp_path)
    assert len(calls) == 80
    for line in calls:
        assert ids_of(line)[1] == [output_ids(line["request"], 0, 4)]


def test_a_folder_that_cannot_be_written_is_told_of(tmp_path):
    (tmp_path / "file").write_text("")
    result = subprocess.run(
        [sys.executable, "-m", "tito", "record", "--upstream", "http://127.0.0.1:9", "--out", str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 3
    told = [f"error: {tmp_path / 'file'}: File exists", "hint: choose another --port or --out"]
    assert result.stderr.splitlines() == told
