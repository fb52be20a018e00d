"""Native captures become rows without a tokenizer: none is imported, and one that raises is never asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tito

TESTS = Path(__file__).parent
CAPTURES = TESTS / "captures"

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tokenizers", "transformers", "sentencepiece", "tiktoken", "jinja2", "torch"):
            raise AssertionError(f"{name} was imported")
sys.meta_path.insert(0, Block())
"""

POISONED = """
import sys, types
def refuse(*args, **kwargs):
    raise AssertionError("something was encoded")
for name in ("tokenizers", "transformers"):
    module = types.ModuleType(name)
    class Tokenizer:
        encode = encode_batch = __call__ = from_file = from_pretrained = refuse
    module.Tokenizer = module.AutoTokenizer = module.PreTrainedTokenizerFast = Tokenizer
    module.__getattr__ = refuse
    sys.modules[name] = module
"""

WORK = """
import json, tito
for think in ("keep", "strip", "strip-all", "mask"):
    for tail in ("captured", "no-think") if think.startswith("strip") else ("captured",):
        policies = tito.Policies(think=think, tail=tail, bad="skip", unterminated="keep")
        report = tito.convert(sys.argv[1], sys.argv[2], policies=policies)
        assert report.rows > 0
rows = list(tito.open_rows(sys.argv[2]))
print(len(rows))
"""


@pytest.mark.parametrize("guard", [BLOCKED, POISONED], ids=["blocked", "poisoned"])
@pytest.mark.parametrize("capture", ["qwen3/calls.jsonl", "qwen35-stream/calls.jsonl", "qwen35/coop"])
def test_no_tokenizer_is_needed(tmp_path, guard, capture):
    command = [sys.executable, "-c", guard + WORK, str(CAPTURES / capture), str(tmp_path / "o.parquet")]
    environment = {**os.environ, "PYTHONPATH": str(Path(tito.__file__).parents[1])}
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) > 0
