"""How hard Hypothesis tries, TITO_EXAMPLES examples a law (25 unless told); and the command line, run in place."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings
from tito.cli import main

settings.register_profile(
    "tito",
    max_examples=int(os.environ.get("TITO_EXAMPLES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tito")

# A shell ignores Ctrl-C for what it starts in the background, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# nohup does so with what a closed terminal sends.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs `tito ARGS` in an empty folder; gives code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        try:
            code = main([str(arg) for arg in args])
        except SystemExit as left:
            code = left.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
