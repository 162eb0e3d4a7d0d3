"""What holds everywhere:

who may import whom, what is never used, and that the file tree tells the truth.
"""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("training", "studio")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors.torch")
# Folders of training, from the bottom up: each imports only itself, those before it, and the
# modules that lie in training/ itself
ORDER = (
    "system",
    "storage",
    "data",
    "config",
    "style_files",
    "runtime",
    "modules",
    "models",
    "adapters",
    "diffusion",
    "evaluation",
    "trainer",
    "cli",
)
TORCH_LINE = ORDER.index("runtime")  # nothing before it imports torch
LOGS = (
    "diffusers.utils.logging",
    "transformers.utils.logging",
)  # to silence them is not to know them
# The records, and how words are said
OF_A_FAMILY = (
    "training.models.conditioning",
    "training.models.family",
    "training.models.clip_text",
    "training.models.instruction",
    "training.models.latent_space",
    "training.models.objective",
    "training.models.textual_inversion",
    "training.style_files.family_spec",
)
KNOWS_DIFFUSERS = (
    "training/models/",
    "training/adapters/",
    "training/modules/",
    "training/diffusion/",
    "training/evaluation/external_metrics.py",
    "studio/datasets/caption_worker.py",
)
SPEAKS = (
    "training/cli/for_programs.py",
    "training/cli/notifications.py",
    "training/cli/sweep.py",
    "training/train_style.py",
    "training/cli/style_editing.py",
    "training/cli/style_file.py",
    "training/cli/style_inspection.py",
    "training/cli/style_io.py",
    "studio/compare.py",
    "studio/__main__.py",
    "studio/page/app.py",
    "studio/datasets/caption_worker.py",
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


# --- imports ---


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if shown(p).startswith("training/")], ids=shown
)
def test_the_training_knows_nothing_of_the_page(path: Path) -> None:
    assert not [m for m in imported(tree_of(path)) if names(m, "studio") or names(m, "gradio")]


@each_source
def test_few_modules_know_diffusers(path: Path) -> None:
    if not shown(path).startswith(KNOWS_DIFFUSERS):
        assert not [
            m
            for m in imported(tree_of(path))
            if m.split(".")[0] in ("diffusers", "transformers", "peft") and m not in LOGS
        ]


def folder_of(module: str) -> str:
    """The folder of training in which a module lies, empty for those at its top."""
    parts = module.split(".")
    return parts[1] if parts[0] == "training" and len(parts) > 1 and parts[1] in ORDER else ""


def test_every_folder_of_training_has_its_place() -> None:
    assert {path.parent.name for path in (ROOT / "training").glob("*/__init__.py")} == set(ORDER)


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.parent.parent == ROOT / "training"], ids=shown
)
def test_imports_go_downward(path: Path) -> None:
    own = ORDER.index(path.parent.name)
    assert not [
        m for m in imported(tree_of(path)) if folder_of(m) and ORDER.index(folder_of(m)) > own
    ]


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in SOURCES
        if shown(p).startswith("studio/") and not shown(p).startswith("studio/page/")
    ],
    ids=shown,
)
def test_nothing_of_studio_imports_its_page(path: Path) -> None:
    if path.name != "__main__.py":
        assert not [m for m in imported(tree_of(path)) if names(m, "studio.page")]


@pytest.mark.parametrize("folder", ORDER[:TORCH_LINE])
def test_above_the_torch_line_nothing_heavy_is_named_at_the_top(folder: str) -> None:
    for path in (ROOT / "training" / folder).glob("*.py"):
        found = list(imported(tree_of(path), now=True))
        assert not [m for m in found for heavy in HEAVY if names(m, heavy)], path.name


def test_above_the_torch_line_nothing_heavy_is_pulled_in() -> None:
    """The page starts a training without loading torch into itself."""
    light = [
        path
        for folder in ORDER[:TORCH_LINE]
        for path in sorted((ROOT / "training" / folder).glob("*.py"))
    ]
    light += [
        ROOT / "training" / f"{name}.py"
        for name in ("errors", "events", "prompt", "samplers", "train_style")
    ]
    light += sorted((ROOT / "studio" / "page").rglob("*.py"))
    wanted = [
        shown(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in light
    ]
    wanted += ["training.cli.style_file", "training.cli.terminal"]
    script = f"import sys, {', '.join(wanted)}; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-B", "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]", found.stderr


def test_imports_run_one_way() -> None:
    """No circles, those inside of functions included."""
    modules = {shown(path).removesuffix(".py").replace("/", "."): path for path in SOURCES}
    arrows = {}
    for module, path in modules.items():
        arrows[module] = {
            known
            for m in imported(tree_of(path))
            for known in modules
            if m == known or m.rpartition(".")[0] == known
        } - {module}
    list(graphlib.TopologicalSorter(arrows).static_order())


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "models").glob("*.py")), ids=shown)
def test_a_family_knows_only_the_record(path: Path) -> None:
    """What a family is made of names the record; what finds and opens files names families, never
    the reverse.
    """
    if path.name in (
        "__init__.py",
        "loader.py",
        "base_files.py",
        "files.py",
        "hub.py",
        "single_file.py",
        "text_states.py",
        "transformer_file.py",
        "weight_file.py",
        "gguf_file.py",
        "fsdp.py",
        "textual_inversion.py",
    ):
        return
    assert not [
        m
        for m in imported(tree_of(path))
        if names(m, "training") and not any(names(m, known) for known in OF_A_FAMILY)
    ]


@each_source
def test_only_families_ask_which_family(path: Path) -> None:
    if "training/models/" in shown(path):
        return
    compared = [ast.unparse(n.left) for n in ast.walk(tree_of(path)) if isinstance(n, ast.Compare)]
    assert not [word for word in compared if word.endswith((".family.name", ".family.naming"))]


# --- never ---


@each_source
def test_nothing_that_runs_what_it_reads(path: Path) -> None:
    tree = tree_of(path)
    assert not [
        m
        for m in imported(tree)
        if m.split(".")[0]
        in ("pickle", "cPickle", "dill", "marshal", "shelve", "cloudpickle", "joblib")
    ]
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    forbidden = ("torch.load", "os.system", "os.popen", "eval", "exec", "numpy.load", "np.load")
    assert not [ast.unparse(c.func) for c in calls if ast.unparse(c.func) in forbidden]
    keywords = [k for c in calls for k in c.keywords]
    assert not [
        k.arg
        for k in keywords
        if k.arg in ("shell", "trust_remote_code", "allow_pickle")
        and ast.unparse(k.value) != "False"
    ]


@each_source
def test_errors_are_caught_by_name(path: Path) -> None:
    """Three exceptions to the rule:

    the command's own edge, where a defect becomes a report, a library that raises nothing
    narrower, and trackers, which may raise anything and must cost no training.
    """
    caught = [
        ast.unparse(h.type) if h.type else ""
        for h in ast.walk(tree_of(path))
        if isinstance(h, ast.ExceptHandler)
    ]
    broad = [word for word in caught if word in ("", "Exception", "BaseException")]
    assert broad == (
        ["Exception"]
        if shown(path)
        in (
            "training/train_style.py",
            "training/cli/trackers.py",
            "studio/datasets/base_info.py",
        )
        else []
    )


@each_source
def test_the_library_does_not_print(path: Path) -> None:
    if shown(path) in SPEAKS:
        return
    assert not [
        n
        for n in ast.walk(tree_of(path))
        if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"
    ]


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
    for f in (
        n for n in ast.walk(tree_of(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ):
        arguments = [
            *f.args.posonlyargs,
            *f.args.args,
            *f.args.kwonlyargs,
            *(a for a in (f.args.vararg, f.args.kwarg) if a),
        ]
        if f.returns is None or any(
            a.annotation is None and a.arg not in ("self", "cls", "ctx") for a in arguments
        ):
            untyped.append(f"{f.name}, line {f.lineno}")
    assert untyped == []


# --- sizes and names ---

MOST_LINES, MOST_FUNCTION_LINES = 400, 60
# What is too long today. Nothing is added here: what is divided is taken out
LONG_MODULES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()
# Words that are not the field's, as parts of an identifier or of a module's name
FOREIGN = re.compile(
    r"(told|worn|wearing|wardrobe|company|bench|wish(es|ed)?|witness(es)?|mends?|mended|"
    r"patiently|quicken(s|ed)?)"
)
NAMED = (*PACKAGES, "tests", "benchmarks", "docs", "sample_data")


def test_modules_are_short() -> None:
    found = {
        shown(path) for path in SOURCES if path.read_text(encoding="utf-8").count("\n") > MOST_LINES
    }
    assert found - LONG_MODULES == set(), f"more than {MOST_LINES} lines: which nouns are in it?"
    assert LONG_MODULES - found == set(), "these are short now: take them out of LONG_MODULES"


def test_functions_fit_a_screen() -> None:
    found = {
        f"{shown(path)} {node.name}"
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or node.lineno) - node.lineno >= MOST_FUNCTION_LINES
    }
    assert found - LONG_FUNCTIONS == set(), f"more than {MOST_FUNCTION_LINES} lines"
    assert LONG_FUNCTIONS - found == set(), "these are short now: take them out of LONG_FUNCTIONS"


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Every name that the code binds or reads."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "asname"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield name.rpartition(".")[2]


def is_foreign(name: str) -> bool:
    """Whether a part of snake_case or CamelCase is a word that is not the field's."""
    parts = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_")
    return any(FOREIGN.fullmatch(part) for part in parts)


def test_names_are_the_fields_own() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted(path for folder in NAMED for path in (ROOT / folder).rglob("*.py")):
        names = {name for name in (*identifiers(tree_of(path)), path.stem) if is_foreign(name)}
        if names:
            found[shown(path)] = names
    assert not found


def test_foreign_words_are_found() -> None:
    assert all(map(is_foreign, ("told", "TOLD_AT", "isWorn", "_wish", "test_a_mend_is_made")))
    assert not any(map(is_foreign, ("benchmarks", "toldo", "recommended", "accompany")))


# --- the documents ---


def test_the_file_tree_is_up_to_date() -> None:
    """docs/tree.md is made from the docstrings: `python docs/tree.py` writes it anew."""
    spec = importlib.util.spec_from_file_location("tree", ROOT / "docs" / "tree.py")
    assert spec is not None and spec.loader is not None
    tree = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tree)
    assert tree.PAGE.read_text(encoding="utf-8") == tree.page()
