"""Probes of a user's own: one that measures nothing and stops a run at the step that TITO_STOP names, as Ctrl-C would,
and others whose numbers are known beforehand."""

import os
import signal


def stop_at(step):
    if step == int(os.environ.get("TITO_STOP", "-1")):
        raise KeyboardInterrupt


def probe(model, *, step):
    assert not model.training
    stop_at(step)
    return {"score": -abs(step - 4)}


def same(model, *, step):
    stop_at(step)
    return {"score": 0.5}


def holes(model, *, step):
    return {"score": float("nan") if step in (1, 3, 5) else float(step)}


def no_number(model, *, step):
    return {"score": float("nan") if step else 0.0}


def term(model, *, step):
    if step == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return {"score": 0.5}


class Odd:
    def __call__(self, model, *, step):
        return {"score": step % 2, "other": 1.0}


class Two:
    """Two numbers that point elsewhere."""

    def __call__(self, model, *, step):
        return {"score": step, "other": float(step == 2)}


def even(reply):
    """An assertion."""
    return len(reply.output_ids) % 2 == 0 or "an odd number of ids"
