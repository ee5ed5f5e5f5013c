"""No code of the project runs what it reads: a gate over the syntax trees of all of it.

Names are followed through imports (``import numpy as np``, ``from os import system as run``). The
one place that executes a file is ``sdejax/commands/config.py``, for the file named by ``--config``.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("sdejax", "experiments", "configs", "benchmarks", "colab", "tests", "setup.py")
# Tests that make hostile files, or break these rules on purpose.
HOSTILE = ("tests/security/", "tests/data/test_pickled.py", "tests/data/test_cifar.py",
           "tests/data/test_arrays.py")  # fmt: skip
# Where a Python file named by the user is executed, and where the examples of README.md are run.
EXECUTES = {"sdejax/commands/config.py"}
EXAMPLES = {"tests/test_readme.py"}

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve",
           "jsonpickle", "runpy", "imp"}  # fmt: skip
CALLS = {
    "eval", "exec", "compile", "__import__", "execfile", "os.system", "os.popen", "pty.spawn",
    "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp", "torch.hub.load",
    "pandas.read_pickle", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all",
    "yaml.full_load_all", "code.interact", "numpy.lib.npyio.NpzFile",
}  # fmt: skip
EXECUTION = {"importlib.util.spec_from_file_location", "importlib.machinery.SourceFileLoader"}
# Calls that need a keyword to be harmless, and its value.
NEEDS = {
    "numpy.load": ("allow_pickle", "False"),
    "jax.numpy.load": ("allow_pickle", "False"),
    "numpy.lib.format.read_array": ("allow_pickle", "False"),
    "torch.load": ("weights_only", "True"),
    "shutil.unpack_archive": ("filter", "'data'"),
}
METHODS = {"extractall": ("filter", "'data'"), "extract": ("filter", "'data'")}
SAFE_YAML = ("SafeLoader", "CSafeLoader")
KEYWORDS = {"shell": "False", "allow_pickle": "False", "trust_remote_code": "False"}


def sources(root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Path and code of every file; of a notebook the code cells, without lines for the shell."""
    for room in ROOMS:
        top = root / room
        files = [top] if top.is_file() else sorted(top.rglob("*.py")) + sorted(top.rglob("*.ipynb"))
        for file in files:
            text = file.read_text(encoding="utf-8")
            if file.suffix == ".ipynb":
                cells = [c["source"] for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
                text = re.sub(r"(?m)^\s*[%!].*$", "", "\n".join(map("".join, cells)))
            yield file.relative_to(root).as_posix(), text


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """The full name of what is called: through attributes, and through what was imported as."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names)}.{node.attr}"
    return "(?)"


def imported(tree: ast.Module) -> tuple[dict[str, str], list[tuple[int, str]]]:
    """Local name -> full name, and every import with its line."""
    names: dict[str, str] = {}
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append((node.lineno, f"{node.module}"))
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names, found


def breaches(path: str, source: str) -> Iterator[str]:
    """What a file does that it may not."""
    tree = ast.parse(source)
    names, modules = imported(tree)
    for line, module in modules:
        if module.split(".")[0] in MODULES:
            yield f"{path}:{line}: imports {module}; read plain data instead"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, where = dotted(node.func, names), f"{path}:{node.lineno}"
        last = name.rsplit(".", 1)[-1]
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if name in ("exec", "compile") and path in EXAMPLES:
            continue
        if name.removeprefix("builtins.") in CALLS or name.split(".")[0] in MODULES:
            yield f"{where}: calls {name}"
        execution = name in EXECUTION or last in ("exec_module", "load_module")
        if execution and path not in EXECUTES:
            yield f"{where}: executes a file ({name})"
        wanted = NEEDS.get(name) or (METHODS.get(last) if "." in name else None)
        if wanted and given.get(wanted[0]) != wanted[1]:
            yield f"{where}: {name} without {wanted[0]}={wanted[1]}"
        if name in ("yaml.load", "yaml.load_all"):
            loader = given.get("Loader") or "".join(map(ast.unparse, node.args[1:2]))
            if loader.rsplit(".", 1)[-1] not in SAFE_YAML:
                yield f"{where}: {name} without SafeLoader; or better, JSON"
        for keyword, safe in KEYWORDS.items():
            if given.get(keyword, safe) != safe:
                yield f"{where}: {keyword}={given[keyword]}"
        picture = last == "open" and name.startswith("PIL.") and path.startswith("sdejax/")
        if picture and "formats" not in given:
            yield f"{where}: {name} without formats=; some of Pillow's parsers run programs"


def test_the_gate_is_shut():
    found = [
        line
        for path, source in sources()
        if not path.startswith(HOSTILE)
        for line in breaches(path, source)
    ]
    assert not found, "\n" + "\n".join(found)


def test_the_gate_looks_everywhere():
    seen = {path for path, _ in sources()}
    assert {"sdejax/data/arrays.py", "setup.py", "colab/01_quickstart.ipynb", "configs/digits.py",
            "benchmarks/speed.py", "tests/conftest.py"} <= seen  # fmt: skip
    assert len(seen) > 200
    assert any(path.startswith("experiments/") for path in seen)


BAD = [
    "import pickle",
    "from pickle import loads",
    "import dill.session",
    "from joblib import load",
    "def f():\n    import marshal",
    "import numpy as np\nnp.load('a')",
    "import numpy as np\nnp.load('a', allow_pickle=True)",
    "import numpy as np\nnp.load('a', None, True)",
    "from numpy import load as l\nl(file='a', allow_pickle=x)",
    "import jax.numpy as jnp\njnp.load('a')",
    "import numpy\nnumpy.save('a', x, allow_pickle=True)",
    "from numpy.lib import format as f\nf.read_array(x)",
    "import yaml\nyaml.load(x)",
    "import yaml\nyaml.load(x, Loader=yaml.Loader)",
    "import yaml\nyaml.load(x, yaml.FullLoader)",
    "from yaml import unsafe_load\nunsafe_load(x)",
    "eval('1')",
    "exec('1')",
    "import builtins as b\nb.exec('1')",
    "compile('1', 'a', 'exec')",
    "__import__('os')",
    "import runpy",
    "import importlib.util as u\ns = u.spec_from_file_location('a', 'b')",
    "spec.loader.exec_module(m)",
    "import tarfile\ntarfile.open('a').extractall('b')",
    "archive.extract(member, path)",
    "archive.extractall(path, filter='tar')",
    "import shutil\nshutil.unpack_archive('a', 'b')",
    "import subprocess\nsubprocess.run('ls', shell=True)",
    "import subprocess as s\ns.getoutput('ls')",
    "from os import system as run\nrun('ls')",
    "import os\nos.popen('ls')",
    "import torch\ntorch.load('a')",
    "import torch\ntorch.load('a', weights_only=False)",
    "import torch\ntorch.hub.load('a', 'b')",
    "load_dataset('a', trust_remote_code=True)",
    "import tempfile\ntempfile.mktemp()",
    "from PIL import Image\nImage.open('a')",
]


@pytest.mark.parametrize("source", BAD)
def test_a_breach_is_found(source):
    assert list(breaches("sdejax/a.py", source))


GOOD = [
    "import numpy as np\nnp.load('a', allow_pickle=False)",
    "import yaml\nyaml.load(x, Loader=yaml.SafeLoader)\nyaml.safe_load(x)",
    "import re\nre.compile('a')\nmodel.eval()\nlowered.compile()",
    "import pickletools, json, ast\njson.loads(x)\nast.literal_eval(x)",
    "archive.extractall(path, filter='data')",
    "import subprocess\nsubprocess.run(['ls'], shell=False)",
    "import torch\ntorch.load('a', weights_only=True)",
    "from PIL import Image\nImage.open('a', formats=('PNG',))",
    "def evaluate(): pass\nevaluate()",
]


@pytest.mark.parametrize("source", GOOD)
def test_what_is_harmless_passes(source):
    assert not list(breaches("sdejax/a.py", source))


def test_one_file_alone_may_execute_another():
    source = "spec.loader.exec_module(module)"
    assert not list(breaches("sdejax/commands/config.py", source))
    assert list(breaches("sdejax/config.py", source))
    text = (ROOT / "sdejax" / "commands" / "config.py").read_text(encoding="utf-8")
    assert text.count(".exec_module(") == 1


def test_notebooks_are_looked_into(tmp_path):
    (tmp_path / "colab").mkdir()
    cells = [{"cell_type": "code", "source": ["%load_ext x\n", "!pip install x\n", "eval('1')"]},
             {"cell_type": "markdown", "source": ["exec("]}]  # fmt: skip
    (tmp_path / "colab" / "a.ipynb").write_text(json.dumps({"cells": cells}))
    ((path, source),) = sources(tmp_path)
    assert list(breaches(path, source)) == ["colab/a.ipynb:3: calls eval"]
