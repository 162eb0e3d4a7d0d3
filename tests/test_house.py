"""What holds everywhere: who may import whom, what is never used, and that the file tree tells the truth."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("training", "studio")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors.torch")
# What the page and --help open with
LIGHT = (
    "errors", "captions", "config", "events", "prompt", "tensor_file", "lora", "style_names", "style_dialects", "style_family", "style_file",
    "style_metadata", "style_words", "checkpoint_names", "base_weights", "style_tools", "style_command", "workspace", "buckets", "png", "dataset",
    "terminal", "train_style",
    "lock", "resume", "guard", "samplers", "company",
)  # fmt: skip
LOGS = ("diffusers.utils.logging", "transformers.utils.logging")  # to silence them is not to know them
OF_A_FAMILY = ("training.families.family", "training.tokens")  # the record, and how words are said
KNOWS_DIFFUSERS = (
    "training/families/", "training/adapter.py", "training/attention.py", "training/render.py", "training/witnesses.py",
    "studio/describe.py",
)  # fmt: skip
SPEAKS = (
    "training/sweep.py",
    "training/train_style.py",
    "training/style_command.py",
    "studio/compare.py",
    "studio/__main__.py",
    "studio/app.py",
    "studio/describe.py",
)


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(tree: ast.AST, *, now: bool = False) -> Iterator[str]:
    """Modules that are named in imports; now: only those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not (now and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from imported(node, now=now)


def names(module: str, of: str) -> bool:
    return module == of or module.startswith(of + ".")


each_source = pytest.mark.parametrize("path", SOURCES, ids=shown)


# --- arrows ---


@pytest.mark.parametrize("path", [p for p in SOURCES if shown(p).startswith("training/")], ids=shown)
def test_the_training_knows_nothing_of_the_page(path: Path) -> None:
    assert not [m for m in imported(tree_of(path)) if names(m, "studio") or names(m, "gradio")]


@each_source
def test_few_modules_know_diffusers(path: Path) -> None:
    if not shown(path).startswith(KNOWS_DIFFUSERS):
        assert not [m for m in imported(tree_of(path)) if m.split(".")[0] in ("diffusers", "transformers", "peft") and m not in LOGS]


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_name_nothing_heavy_at_the_top(name: str) -> None:
    found = list(imported(tree_of(ROOT / "training" / f"{name}.py"), now=True))
    assert not [m for m in found for heavy in HEAVY if names(m, heavy)]


def test_light_modules_pull_nothing_heavy_in() -> None:
    """The page starts a training without loading torch into itself."""
    wanted = [*(f"training.{name}" for name in LIGHT), "studio.jobs", "studio.forms", "studio.library", "studio.datasets", "studio.charts"]
    script = f"import sys, {', '.join(wanted)}; print([m for m in {HEAVY} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-B", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert told.stdout.strip() == "[]", told.stderr


def test_imports_run_one_way() -> None:
    """No circles, those inside of functions included."""
    modules = {shown(path).removesuffix(".py").replace("/", "."): path for path in SOURCES}
    arrows = {}
    for module, path in modules.items():
        arrows[module] = {known for m in imported(tree_of(path)) for known in modules if m == known or m.rpartition(".")[0] == known} - {module}
    list(graphlib.TopologicalSorter(arrows).static_order())


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "families").glob("*.py")), ids=shown)
def test_a_family_knows_only_the_record(path: Path) -> None:
    """What a family is made of names the record; what finds and opens files names families, never the reverse."""
    if path.name in ("__init__.py", "detect.py", "files.py", "single_file.py"):
        return
    assert not [m for m in imported(tree_of(path)) if names(m, "training") and not any(names(m, known) for known in OF_A_FAMILY)]


@each_source
def test_only_families_ask_which_family(path: Path) -> None:
    if "training/families/" in shown(path):
        return
    compared = [ast.unparse(n.left) for n in ast.walk(tree_of(path)) if isinstance(n, ast.Compare)]
    assert not [word for word in compared if word.endswith((".family.name", ".family.naming"))]


# --- never ---


@each_source
def test_nothing_that_runs_what_it_reads(path: Path) -> None:
    tree = tree_of(path)
    assert not [m for m in imported(tree) if m.split(".")[0] in ("pickle", "cPickle", "dill", "marshal", "shelve", "cloudpickle", "joblib")]
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    forbidden = ("torch.load", "os.system", "os.popen", "eval", "exec", "numpy.load", "np.load")
    assert not [ast.unparse(c.func) for c in calls if ast.unparse(c.func) in forbidden]
    keywords = [k for c in calls for k in c.keywords]
    assert not [k.arg for k in keywords if k.arg in ("shell", "trust_remote_code", "allow_pickle") and ast.unparse(k.value) != "False"]


@each_source
def test_errors_are_caught_by_name(path: Path) -> None:
    """Two exceptions to the rule: the command's own edge, where a defect becomes a report, and a library that raises nothing narrower."""
    caught = [ast.unparse(h.type) if h.type else "" for h in ast.walk(tree_of(path)) if isinstance(h, ast.ExceptHandler)]
    broad = [word for word in caught if word in ("", "Exception", "BaseException")]
    assert broad == (["Exception"] if shown(path) in ("training/train_style.py", "studio/bases.py") else [])


@each_source
def test_the_library_does_not_print(path: Path) -> None:
    if shown(path) in SPEAKS:
        return
    assert not [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]


@each_source
def test_a_users_input_is_never_asserted(path: Path) -> None:
    assert not [n.lineno for n in ast.walk(tree_of(path)) if isinstance(n, ast.Assert)]


@each_source
def test_a_module_opens_with_what_it_knows(path: Path) -> None:
    tree = tree_of(path)
    assert not tree.body or ast.get_docstring(tree)


@each_source
def test_signatures_are_typed(path: Path) -> None:
    untyped = []
    for f in (n for n in ast.walk(tree_of(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
        arguments = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs, *(a for a in (f.args.vararg, f.args.kwarg) if a)]
        if f.returns is None or any(a.annotation is None and a.arg not in ("self", "cls", "ctx") for a in arguments):
            untyped.append(f"{f.name}, line {f.lineno}")
    assert untyped == []


# --- the README ---


def told_in_tree() -> set[str]:
    """Paths in the README's file tree, relative to the root."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = text.split("<!-- tree -->")[1].split("<!-- /tree -->")[0].split("```text\n")[1].split("```")[0].splitlines()
    found, above = set(), []
    for line in lines:
        name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
        above = [*above[:depth], name]
        found.add("".join(above))
    return found


def test_the_file_tree_names_every_module() -> None:
    missing = {shown(path) for path in SOURCES if path.name not in ("__init__.py", "__main__.py")} - told_in_tree()
    assert missing == set()


def test_the_file_tree_names_nothing_that_is_not_there() -> None:
    assert {name for name in told_in_tree() if not (ROOT / name).exists()} == set()
