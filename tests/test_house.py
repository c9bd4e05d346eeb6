"""The house stays in order: stages import only downwards, doors are few, the README knows all."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "caffesurgery"
STAGES = (
    "errors compiled workers files net cost decompose data forward timing calibration ranks "
    "surgery export verify train report api flow zoo cli __main__"
).split()
DOORS = {"onnx": {"export"}, "onnxruntime": {"verify"}, "google": set(), "rich": {"cli"},
         "click": {"cli", "__main__"}, "dask": set(), "distributed": {"workers"},
         "lmdb": {"data"}, "h5py": {"data"}, "PIL": {"data"}, "torch": {"train"}}  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def stage_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path: Path) -> set[str]:
    """Absolute names of everything that a module imports, inside functions too."""
    package = ("caffesurgery", *path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_stages_import_only_downwards(path):
    stage = stage_of(path)
    if stage == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "caffesurgery" and len(parts) > 1 and parts[1] in STAGES:
            assert STAGES.index(parts[1]) <= STAGES.index(stage), f"{path} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_foreign_formats_have_one_door(path):
    for name in imports(path):
        door = DOORS.get(name.split(".")[0])
        assert door is None or stage_of(path) in door, f"{path} imports {name}"


def test_decompositions_and_costs_know_no_nets_and_no_files():
    for path in MODULES:
        if stage_of(path) in ("decompose", "cost"):
            known = {
                name.split(".")[1] for name in imports(path) if name.startswith("caffesurgery.")
            }
            assert known <= {"errors", "compiled", "workers", stage_of(path)}, path


def test_import_is_lazy():
    code = "import sys, caffesurgery; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "scipy", "onnx", "click"} & set(done.stdout.split())


def test_looking_at_a_net_needs_neither_scipy_nor_onnx():
    code = "import sys, caffesurgery.api; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"scipy", "onnx", "onnxruntime"} & set(done.stdout.split())


def test_public_names_have_docstrings():
    import caffesurgery

    for name in caffesurgery.__all__:
        if name != "__version__":
            assert len(getattr(caffesurgery, name).__doc__) > 40, name


def source_files() -> list[str]:
    folders = ("caffesurgery", "proto", "models", "tests", "tools")
    return sorted(
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".c", ".proto", ".md")
    )


def test_readme_maps_every_file_in_one_line():
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Every file")[1]
    entries = [line.split("`")[1] for line in text.splitlines() if line.startswith("- `")]
    assert sorted(entries) == source_files()
