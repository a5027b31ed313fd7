"""Which way imports point, what the command line loads to answer --help, and that nothing is ever unpickled."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for package in ("metagen", "cluster", "launch") for path in (ROOT / package).rglob("*.py"))


def _python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_point_from_launch_to_cluster_to_metagen() -> None:
    """The import-linter contracts of pyproject.toml."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    assert "0 broken" in _python(code, "--no-cache")


BLOCKER = """
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "click", "rich"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
import metagen
names = [m.name for m in pkgutil.walk_packages(metagen.__path__, "metagen.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_every_module_of_metagen_imports_where_ray_and_click_are_missing() -> None:
    modules = [path for path in SOURCES if path.is_relative_to(ROOT / "metagen")]
    assert int(_python(BLOCKER)) == len(modules) - 1


LOADED = """
import json, sys
sys.argv = ["metagen", *sys.argv[1:]]
from launch.cli import main
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["tasks", "--help"],
        ["cluster", "--help"],
        ["submit", "--help"],
        ["sweep", "--help"],
    ],
)
def test_help_loads_none_of_the_heavy_libraries(arguments: list[str]) -> None:
    out = _python(LOADED, *arguments)
    loaded = set(json.loads(out.splitlines()[-1]))
    assert "click" in loaded
    assert not loaded & {"torch", "ray", "numpy", "pydantic", "PIL", "tensorboard", "yaml", "rich"}


def test_commands_on_jobs_load_no_torch() -> None:
    out = _python("import json, sys, launch.jobs.watching; print(json.dumps(list(sys.modules)))")
    assert not set(json.loads(out)) & {"torch", "ray", "numpy"}


def test_serial_training_never_loads_ray(tiny_yaml: Path, tmp_path: Path) -> None:
    loaded = json.loads(_python(LOADED, "train", str(tiny_yaml), "--run-dir", str(tmp_path / "run")).splitlines()[-1])
    assert "torch" in loaded
    assert "ray" not in loaded


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_ever_unpickled(path: Path) -> None:
    """No module asks for a pickle: not by name, not through torch or numpy. One reads what its own processes send each
    other through a pipe."""
    tree, pipes = ast.parse(path.read_text()), path == ROOT / "metagen" / "processes.py"
    refused = {"torch.load", "torch.save", "pickle.load", "pickle.Unpickler", *([] if pipes else ["pickle.loads"])}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            bad = {"dill", "cloudpickle", "joblib", "shelve", "marshal"} & {name.partition(".")[0] for name in names}
            assert not bad, f"{path}:{node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used = f"{node.value.id}.{node.attr}"
            assert used not in refused, f"{path}:{node.lineno}"
            assert used not in {"yaml.load", "yaml.unsafe_load", "yaml.full_load"}, f"{path}:{node.lineno}"
        if isinstance(node, ast.Call):
            is_load = isinstance(node.func, ast.Attribute) and ast.unparse(node.func) in ("np.load", "numpy.load")
            allowed = [k.value for k in node.keywords if k.arg == "allow_pickle"]
            assert not is_load or (allowed and ast.unparse(allowed[0]) == "False"), f"{path}:{node.lineno}"
            assert all(ast.unparse(value) == "False" for value in allowed), f"{path}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module == "pickle":
            pytest.fail(f"{path}:{node.lineno}")


def test_global_generators_are_not_seeded_or_drawn_from() -> None:
    """``torch.manual_seed`` occurs once, on a state that is lent and given back."""
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("torch.manual_seed", "np.random.seed", "random.seed", "torch.seed"):
                    found.append((path.name, name))
                drawn = name.startswith(("np.random.", "random.")) and name not in (
                    "np.random.default_rng",
                    "np.random.Generator",
                )
                assert not drawn, f"{path}:{node.lineno}"
                random_tensor = name in ("torch.rand", "torch.randn", "torch.randint", "torch.randperm")
                assert not random_tensor or any(k.arg == "generator" for k in node.keywords), f"{path}:{node.lineno}"
    assert found == [("work.py", "torch.manual_seed")]


BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))


def _defined(path: Path) -> set[str]:
    """Names that a file defines or imports at its top."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def _source(module: str) -> Path | None:
    """The file of a module of ours, also of a benchmark."""
    path = ROOT / module.replace(".", "/")
    for candidate in (ROOT / "benchmarks" / f"{module}.py", path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_of_ours_is_there(path: Path) -> None:
    """They run for hours and by hand, so nothing else would say."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and (source := _source(node.module)):
            known = _defined(source)
            missing = [a.name for a in node.names if a.name not in known and not _source(f"{node.module}.{a.name}")]
            assert not missing, f"{path.name}: {source.name} has no {', '.join(missing)}"
