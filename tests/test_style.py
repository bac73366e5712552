"""Rules of the code base that no linter knows, read from the syntax trees."""

import ast
import pathlib
import re

import pytest


ROOT = pathlib.Path(__file__).parent.parent
SOURCES = sorted(p for d in ("moshijax", "distill", "configs") for p in (ROOT / d).rglob("*.py"))
NNX_TRANSFORMS = {"jit", "grad", "value_and_grad", "scan", "vmap", "cond", "remat", "Optimizer"}

# Where what a user typed or a file holds is met; elsewhere functions take what programs give.
EDGES = re.compile(
    r"configs/|moshijax/(cli|train|data|experiments|preflight|convert|pod|shard|system)/"
    r"|distill/(vision/)?(checks|classes|evaluat\w+|experiment|quickstart|comparison|sources|folder"
    r"|reader|targets|task|teachers)\.py"
)
# What is raised there as ValueError all the same: by a slip in a call, or caught in the same file.
PURE = {
    *(f"convert/lm/{name}.py" for name in ("model", "forms", "lora", "names")),
    *("convert/mimi/model.py", "convert/mimi/names.py", "convert/safetensors.py", "data/codes.py"),
    *(
        "preflight/collectives.py",
        "shard/placement.py",
        "shard/rules.py",
        "train/values.py",
        "train/workdir.py",
    ),
}
TYPED = re.compile(r"--[a-z]|['\"]config\.|\{(args|path|file|folder|source|workdir|option|flag)\b")


def self_assignments(tree):
    """Lines in nnx modules that assign to self outside __init__."""
    for cls in (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
        if not any(ast.unparse(b) == "nnx.Module" for b in cls.bases):
            continue
        for function in cls.body:
            if isinstance(function, ast.FunctionDef) and function.name != "__init__":
                for node in ast.walk(function):
                    targets = getattr(node, "targets", [getattr(node, "target", None)])
                    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
                        for target in targets:
                            if ast.unparse(target).startswith("self."):
                                yield node.lineno


def forbidden_calls(tree):
    """Lines that call config.get, set_value or an nnx transform."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            name = node.func.attr
            if owner.split(".")[-1] == "config" and name == "get":
                yield node.lineno
            if name == "set_value" or (owner == "nnx" and name in NNX_TRANSFORMS):
                yield node.lineno


def imports(tree):
    """Names of the modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def long_functions(tree):
    """Names of functions of over 60 lines, docstring left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            if (node.end_lineno or 0) - first.lineno >= 60:
                yield node.name


def plain_errors(tree):
    """Words of errors that are neither a user's, nor known by a class of their own."""
    for node in ast.walk(tree):
        words = ast.unparse(node.exc) if isinstance(node, ast.Raise) and node.exc else ""
        if re.match(r"(ValueError|RuntimeError|Exception)\b", words):
            yield words


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_is_pure_and_short(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert not list(self_assignments(tree)), "assignment to self outside __init__"
    assert not list(forbidden_calls(tree)), "config.get, set_value or nnx transform"
    assert len(text.splitlines()) <= 300
    assert not list(long_functions(tree)), "a function of over 60 lines"
    assert "TODO" not in text
    words, name = list(plain_errors(tree)), path.relative_to(ROOT).as_posix()
    assert not [w for w in words if TYPED.search(w)], "a plain error about what a user typed"
    if EDGES.match(name) and name.removeprefix("moshijax/") not in PURE:
        assert not words, "raise UserError for what a user typed or a file holds"


def test_a_config_is_data_alone():
    for path in (ROOT / "configs").glob("*.py"):
        names = set(imports(ast.parse(path.read_text()))) - {"moshijax.system.errors.UserError"}
        assert {name.split(".")[0] for name in names} <= {"configs", "ml_collections"}, path


def test_only_command_lines_know_flags():
    for path in SOURCES:
        if re.match("moshijax/(?!cli/)", path.relative_to(ROOT).as_posix()):
            names = {"absl.app", "absl.flags", "ml_collections.config_flags"}
            assert not names & set(imports(ast.parse(path.read_text()))), path


def test_rules_catch_what_they_forbid():
    bad = ast.parse("class A(nnx.Module):\n def f(self):\n  self.x = 1\n")
    assert list(self_assignments(bad)) == [3]
    assert list(forbidden_calls(ast.parse("config.get('a')\nnnx.jit(f)"))) == [1, 2]
    body = "".join(f"  x = {i}\n" for i in range(61))
    assert list(long_functions(ast.parse(f'def f():\n  """Text."""\n{body}'))) == ["f"]
    assert not list(long_functions(ast.parse(f"def f():\n{body[:-9]}")))
    assert not list(plain_errors(ast.parse("raise UserError(f'{path} is no file')")))
    for text in ("f'{path} is no file'", "'--seed is odd'", "f'config.seed: {seed}'"):
        (words,) = plain_errors(ast.parse(f"raise ValueError({text})"))
        assert TYPED.search(words)
    assert not TYPED.search("ValueError(f'k is {k}; it takes one from 1 on')")
    assert EDGES.match("moshijax/train/loop.py")
    assert not EDGES.match("moshijax/nn/conv.py")
