"""A probe that measures nothing and stops a run at the step that TITO_STOP names, as Ctrl-C would."""

import os


def probe(model, *, step):
    assert not model.training
    if step == int(os.environ.get("TITO_STOP", "-1")):
        raise KeyboardInterrupt
    return {"score": -abs(step - 4)}


class Odd:
    def __call__(self, model, *, step):
        return {"score": step % 2, "other": 1.0}
