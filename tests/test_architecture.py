"""The rules of the house, read off the source with ``ast``: each complaint names file and fix.

A rule maps modules to complaints: none for the package, some for small sources that break it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from floors import FLOORS, KEPT_IN, TOWERS

ROOT = Path(__file__).resolve().parents[1]

# Import names that differ from the name of the distribution.
DISTRIBUTIONS = {"PIL": "pillow", "absl": "absl-py", "orbax": "orbax-checkpoint",
                 "sklearn": "scikit-learn"}  # fmt: skip
PROCESSES = r"\b(sde|SDE|VP|SubVP|VE|Cosine|EDM|RectifiedFlow)\b"
LONGEST = 300  # lines of a file
PLAIN = 40  # lines up to which a function with arguments may do with a summary


class Module(NamedTuple):
    path: str  # relative to the root
    tree: ast.Module
    source: str

    @property
    def name(self) -> str:
        """The dotted name below ``sdejax``: "samplers.base", or "" for the package itself."""
        parts = Path(self.path).with_suffix("").parts[1:]
        return ".".join(parts[:-1] if parts[-1:] == ("__init__",) else parts)

    @property
    def room(self) -> str:
        return self.name.split(".")[0]


def load(root: Path) -> list[Module]:
    paths = sorted((root / "sdejax").rglob("*.py"))
    sources = [(p.relative_to(root).as_posix(), p.read_text(encoding="utf-8")) for p in paths]
    return [Module(path, ast.parse(source), source) for path, source in sources]


def imports(module: Module) -> Iterator[tuple[str, ast.stmt]]:
    """Every dotted name that is imported anywhere in the module, absolute."""
    here = ("sdejax." + module.name).rstrip(".").split(".")
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - module.path.endswith("__init__.py")
            base = here[: len(here) - up] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{start}.{alias.name}", node) for alias in node.names)


def inside(modules: list[Module]) -> Iterator[tuple[Module, ast.stmt, str]]:
    """Imports of the package's own modules, cut to the longest name that is a module."""
    names = {module.name for module in modules}
    for module in modules:
        for target, node in imports(module):
            parts = target.split(".")
            if parts[0] == "sdejax":
                while len(parts) > 1 and ".".join(parts[1:]) not in names:
                    parts.pop()
                yield module, node, ".".join(parts[1:])


def floors(modules: list[Module]) -> Iterator[str]:
    """An import goes strictly downward, or stays inside one package."""
    height = {room: i for i, row in enumerate(FLOORS) for room in row}
    for module in modules:
        if module.room not in height:
            yield f"{module.path}: {module.room!r} has no floor; give it one in FLOORS"
    for module, node, target in inside(modules):
        room = target.split(".")[0]
        if room == module.room or not {room, module.room} <= set(height):
            continue
        allowed = TOWERS.get(module.room, {r for r in height if height[r] < height[module.room]})
        if room not in allowed:
            yield (
                f"{module.path}:{node.lineno}: imports sdejax.{target}, which is not below "
                f"{module.room!r}; take what is needed as an argument, or move the code down"
            )


def cycles(modules: list[Module]) -> Iterator[str]:
    """No module imports itself through others."""
    graph: dict[str, set[str]] = {module.name: set() for module in modules}
    for module, _, target in inside(modules):
        if target != module.name:
            graph[module.name].add(target)
    while leaves := [name for name, targets in graph.items() if not targets & set(graph)]:
        for name in leaves:
            del graph[name]
    if graph:
        yield f"import cycle among {sorted(graph)}; move what they share into a module below"


def kept_in(modules: list[Module]) -> Iterator[str]:
    """Each of the libraries of KEPT_IN stays where it belongs."""
    for module in modules:
        for target, node in imports(module):
            for library, homes in KEPT_IN.items():
                used = f"{target}.".startswith(library + ".")
                if used and not any(f"{module.name}.".startswith(home + ".") for home in homes):
                    yield (
                        f"{module.path}:{node.lineno}: imports {library}, which only "
                        f"{sorted(homes) or 'no module'} may; put the call there"
                    )


def declared() -> set[str]:
    """Distributions that setup.py installs, with its extras."""
    strings = ast.walk(ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")))
    values = [node.value for node in strings if isinstance(node, ast.Constant)]
    wanted = (re.match(r"([A-Za-z0-9_.-]+)(\[\w+\])?[>=]=", str(value)) for value in values)
    return {found[1].lower() for found in wanted if found}


def undeclared(modules: list[Module]) -> Iterator[str]:
    """Whatever is imported comes with Python, or setup.py asks for it."""
    known = declared()
    for module in modules:
        for target, node in imports(module):
            top = target.split(".")[0]
            distribution = DISTRIBUTIONS.get(top, top).replace("_", "-").lower()
            if top not in {*sys.stdlib_module_names, "sdejax"} and distribution not in known:
                yield f"{module.path}:{node.lineno}: imports {top}; declare it in setup.py"


def ladders(modules: list[Module]) -> Iterator[str]:
    """No code asks which process it has: everything follows from alpha and sigma."""
    for module in modules:
        for node in ast.walk(module.tree):
            text = ast.unparse(node) if isinstance(node, ast.Call | ast.Compare) else ""
            # `type(sde).__name__` in a message is fine; a comparison of types is not.
            ladder = r"isinstance\(" if isinstance(node, ast.Call) else r".*\btype\("
            if re.match(ladder, text) and re.search(PROCESSES, text):
                yield (
                    f"{module.path}:{node.lineno}: {text}; ask alpha and sigma (or a method of the "
                    "process) instead of its class"
                )


def mistakable(modules: list[Module]) -> Iterator[str]:
    """No trees that jaxlib mistakes for those of another class with as many fields."""
    for module in modules:
        for node in ast.walk(module.tree):
            text = ast.unparse(node) if isinstance(node, ast.Attribute | ast.ImportFrom) else ""
            if re.search(r"\bregister_dataclass\b|\bstruct\.dataclass$|flax\.struct import", text):
                yield (
                    f"{module.path}:{node.lineno}: {text}; use a NamedTuple, or "
                    "register_pytree_with_keys"
                )


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


def docstrings(modules: list[Module]) -> Iterator[str]:
    """Every module and public name has a summary; a longer function says Args and Returns too."""
    for module in modules:
        if not ast.get_docstring(module.tree):
            yield f"{module.path}: no docstring; open with the idea of the module"
        for name, node in public(module.tree.body):
            where = f"{module.path}:{node.lineno}: {name}"
            text = ast.get_docstring(node) or ""
            if not text.split("\n")[0].strip():
                yield f"{where} has no docstring; say in one line what it is or does"
            elif isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno > PLAIN:
                inputs = [
                    a.arg for a in node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                ]
                outputs = any(isinstance(n, ast.Return) and n.value for n in ast.walk(node))
                if set(inputs) - {"self", "cls"} and "Args:" not in text:
                    yield f"{where} is long and its docstring has no 'Args:'"
                if outputs and not re.search(r"\b(Returns|Return|Yields)\b", text):
                    yield f"{where} is long and its docstring has no 'Returns:'"


RULES = {
    rule.__name__: rule
    for rule in (floors, cycles, kept_in, undeclared, ladders, mistakable, docstrings)
}


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps(rule):
    complaints = list(RULES[rule](load(ROOT)))
    assert not complaints, "\n" + "\n".join(complaints)


BREACHES = [
    ("floors", {"sde.py": "from sdejax.losses import x", "losses.py": ""}, "sde.py:1"),
    ("floors", {"sde.py": "def f():\n    import sdejax.divergence", "divergence.py": ""}, ":2"),
    ("floors", {"samplers/a.py": "from ..flows import b", "flows/b.py": ""}, "sdejax.flows.b"),
    ("floors", {"nets/a.py": "from sdejax import sde", "sde.py": ""}, "'nets'"),
    ("floors", {"train/a.py": "import sdejax"}, "not below 'train'"),
    ("floors", {"novelty.py": ""}, "give it one"),
    ("cycles", {"data/a.py": "from .b import x", "data/b.py": "from . import a"}, "data.a"),
    ("kept_in", {"losses.py": "import diffrax as dfx"}, "only ['dynamics'"),
    ("kept_in", {"samplers/diffeq.py": "from flax import linen"}, "flax"),
    ("kept_in", {"viz/a.py": "from matplotlib import pyplot"}, "no module"),
    ("undeclared", {"sde.py": "import tensorflow_probability.substrates"}, "setup.py"),
    ("ladders", {"losses.py": "y = isinstance(self.sde, object)"}, "alpha and sigma"),
    ("ladders", {"losses.py": "y = isinstance(p, (int, VP))"}, "(int, VP)"),
    ("ladders", {"losses.py": "y = type(p) is EDM"}, "type(p) is EDM"),
    ("mistakable", {"sde.py": "jax.tree_util.register_dataclass(C, ['x'], [])"}, "NamedTuple"),
    ("mistakable", {"sde.py": "from flax import struct\n@struct.dataclass\nclass A: 1"}, ":2"),
    ("mistakable", {"sde.py": "from jax.tree_util import register_dataclass"}, ":1"),
    ("docstrings", {"sde.py": "def f(): pass"}, "no docstring; open"),
    ("docstrings", {"sde.py": "'''M.'''\nclass A:\n  '''A.'''\n  def g(self): 1"}, "A.g has no"),
    ("docstrings", {"sde.py": "'''M.'''\ndef f(x):\n  '''F.'''\n" + "  x\n" * 50}, "'Args:'"),
    ("docstrings", {"sde.py": "'''M.'''\ndef f():\n  '''F.'''\n" + "  1\n" * 50 + "  return 1"},
     "'Returns:'"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "files", "complaint"), BREACHES)
def test_a_breach_is_found(tmp_path, rule, files, complaint):
    for name, source in {"__init__.py": "", **files}.items():
        path = tmp_path / "sdejax" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    found = list(RULES[rule](load(tmp_path)))
    assert any(complaint in line for line in found), found


def test_what_the_rules_allow(tmp_path):
    (tmp_path / "sdejax" / "train").mkdir(parents=True)
    source = "'''M.'''\nimport flax, PIL.Image\nfrom sdejax import sde\nfrom .base import x\n"
    (tmp_path / "sdejax" / "train" / "step.py").write_text(
        source + "def _f(sde): return type(sde).__name__\n"
    )
    (tmp_path / "sdejax" / "train" / "base.py").write_text("'''M.'''\nimport os\n")
    (tmp_path / "sdejax" / "sde.py").write_text("'''M.'''\n")
    modules = load(tmp_path)
    assert not [line for rule in RULES.values() for line in rule(modules)]


def test_no_file_is_long():
    rooms = ("sdejax", "configs", "experiments", "benchmarks", "tests")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    length = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    long = [f"{p.relative_to(ROOT)}: {n} lines" for p, n in length.items() if n > LONGEST]
    assert not long, f"more than {LONGEST} lines; split by idea:\n" + "\n".join(long)


def test_every_module_has_its_tests():
    tests = {path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")}
    modules = [Path(module.path).with_suffix("").parts[1:] for module in load(ROOT)]
    modules = [parts for parts in modules if parts != ("types",) and parts[-1][:2] != "__"]
    shared = Counter(parts[-1] for parts in modules)
    missing = []
    for *room, name in modules:
        home = Path("tests", *room, f"test_{name}.py")
        names = {f"test_{'_'.join([*room, name])}.py"}
        if shared[name] == 1:  # a name that two packages use says too little away from home
            names.add(home.name)
        if home not in tests and not names & {path.name for path in tests}:
            missing.append(f"sdejax/{'/'.join([*room, name])}.py: no tests; write {home}")
    assert not missing, "\n" + "\n".join(missing)
