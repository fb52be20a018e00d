"""Other Python threads go on while the core works."""

import sys
import threading
import time

import dumps
import numpy as np
import runs
import tito
from tito import _core


def rounds_while(work):
    """How often another thread went round while `work` ran: never, if `work` holds the GIL all the time."""
    going, rounds, stop = threading.Event(), [0], []

    def other():
        while not stop:
            rounds[0] += 1
            going.set()
            # Lets the GIL go, so that who waits for it need not ask.
            time.sleep(0)

    thread = threading.Thread(target=other)
    before = sys.getswitchinterval()
    thread.start()
    going.wait()
    try:
        # From here on this thread gives the GIL away only where it lets go of it by itself.
        sys.setswitchinterval(1000)
        start = rounds[0]
        work()
        return rounds[0] - start
    finally:
        sys.setswitchinterval(before)
        stop.append(True)
        thread.join()


def test_work_that_holds_on_lets_nobody_in():
    assert rounds_while(lambda: sum(range(10_000_000))) == 0


def test_convert_lets_others_go_on(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", *(dumps.line(n, rollout_id=str(n)) for n in range(20_000)))
    text = runs.options_json(dump, tmp_path / "o.parquet", workers=2)
    assert rounds_while(lambda: _core.convert(text, _core.Progress())) > 0


def test_strip_think_lets_others_go_on():
    ids = np.tile(np.array([151667, 5, 151668, 7], np.int32), 1_250_000)
    assert rounds_while(lambda: tito.strip_think(ids)) > 0
    offsets = np.arange(0, len(ids) + 1, 4)
    assert rounds_while(lambda: tito.strip_think(ids, offsets=offsets)) > 0


def test_many_threads_strip_at_once():
    ids = np.tile(np.array([151667, 5, 151668, 7], np.int32), 10_000)
    results = []
    threads = [threading.Thread(target=lambda: results.append(tito.strip_think(ids).sum())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [results[0]] * 8


def test_a_run_can_be_watched_and_stopped_from_another_thread(tmp_path):
    dump = dumps.write(tmp_path / "d.jsonl", *(dumps.line(n, rollout_id=str(n)) for n in range(2000)))
    progress = _core.Progress()
    _core.convert(runs.options_json(dump, tmp_path / "o.parquet"), progress)
    assert (progress.bytes, progress.total) == (dump.stat().st_size,) * 2
    assert (progress.calls, progress.rows) == (2000, 2000)
