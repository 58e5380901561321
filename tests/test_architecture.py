"""The shape of the house: who may import whom, twins that stay alike, and what never enters the project."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import io
import pkgutil
import re
import tokenize
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import continuous_diffusion
import diffusion_core
import discrete_diffusion
from ctdiff import recipe

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("discrete_diffusion", "continuous_diffusion")
CORE = {"backbones", "diffusion_core"}
MAY_IMPORT = {
    "diffusion_core": set(),
    "backbones": {"diffusion_core"},
    "discrete_diffusion": CORE,
    "continuous_diffusion": CORE,
    "configs": set(),
    "ctdiff": {*CORE, *ENGINES, "configs"},
}
PACKAGES = sorted(MAY_IMPORT)

# Put together here, so that this file does not hold the words it looks for.
HOME_WORDS = [".." + "/shared", *(f"/{folder}/" for folder in ("work", "root", "home", "Users"))]
REGISTRY_HOSTS = ["pypi" + ".org", "python" + "hosted.org", "npmjs" + ".", "anaconda" + ".org"]
REGISTRY_WORDS = [*REGISTRY_HOSTS, "index" + "-url", "find" + "-links"]
UNFINISHED_WORDS = ["TO" + "DO", "FIX" + "ME"]
PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve"}


def package_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def python_files(project_files: list[Path]) -> dict[Path, ast.Module]:
    return {path: parsed(path) for path in project_files if path.suffix == ".py"}


def modules(package: str) -> Iterator[ModuleType]:
    """Every module of a package, imported (`__main__` runs the command, so it is left out)."""
    top = importlib.import_module(package)
    yield top
    for info in pkgutil.walk_packages(top.__path__, f"{package}."):
        if not info.name.endswith(".__main__"):
            yield importlib.import_module(info.name)


def subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def imported(tree: ast.Module) -> Iterator[str]:
    """The top-level names that a module imports, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            yield node.module.split(".")[0]


# Packages and imports


def test_packages_are_what_is_installed() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "examples", "benchmarks"}
    assert found == set(MAY_IMPORT)
    assert [name for name in PACKAGES if not (ROOT / name / "py.typed").is_file()] == []
    folders = {path.parent for name in PACKAGES for path in package_files(name)}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == [], "find_packages would miss these"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package: str) -> None:
    allowed = {package, *MAY_IMPORT[package]}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in package_files(package)
        for name in imported(parsed(path))
        if name in {*PACKAGES, "tests", "examples", "benchmarks"} - allowed
    ]
    assert wrong == []


def imported_modules(tree: ast.Module, names: set[str]) -> Iterator[str]:
    """Those of the named modules that a module imports, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from names & {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & inside
            yield from names & {node.module} if inside - names else ()


def test_no_circle_of_imports() -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in package_files(package)
    }
    trees = {name: parsed(path) for name, path in files.items()}
    graph = {name: set(imported_modules(tree, set(files))) - {name} for name, tree in trees.items()}
    assert sum(map(len, graph.values())) > 200
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def rooms() -> dict[str, set[str]]:
    """The rooms of ctdiff (its top-level modules and subpackages), each with the rooms that it imports, in functions too."""
    folder = ROOT / "ctdiff"
    names = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()} - {"__init__"}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for path in package_files("ctdiff"):
        room = path.relative_to(folder).parts[0].removesuffix(".py")
        for node in ast.walk(parsed(path)) if room != "__init__" else ():
            found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                found = [f"{node.module}.{alias.name}" for alias in node.names]
            parts = [name.split(".") for name in found]
            graph[room] |= {part[1] for part in parts if part[0] == "ctdiff" and part[1:2] and part[1] in names} - {room}
    return graph


def room_files() -> list[tuple[str, Path]]:
    """The files of ctdiff with their rooms."""
    folder = ROOT / "ctdiff"
    return [(path.relative_to(folder).parts[0].removesuffix(".py"), path) for path in package_files("ctdiff")]


def test_no_circle_of_rooms() -> None:
    graph = rooms()
    assert len(graph) > 15
    assert sum(map(len, graph.values())) > 40
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert graph["codecs"] == set(), "a codec knows pixels and clean data only"
    assert "codecs" in graph["recipe"]
    assert "evaluation" in graph["comparison"]
    assert not {"evaluation", "comparison"} & graph["metrics"], "metrics are functions of tensors, and know no run"
    assert "metrics" in graph["evaluation"]
    assert "comparison" not in graph["evaluation"], "an evaluation is of one run"
    assert "model_folder" in graph["runs"], "a run may be a model"
    assert "evaluation" in graph["models"]
    assert {"cli"} == {room for room, known in graph.items() if "models" in known}, "models are made above everything else"
    assert {"hub"} == {room for room, path in room_files() if "huggingface_hub" in path.read_text(encoding="utf-8")}


def test_only_the_recipe_tells_engines_apart(python_files: dict[Path, ast.Module]) -> None:
    """What differs between engines is asked of `ctdiff.recipe.engine.Engine`; nothing else compares an engine's name."""
    names, compared = set(recipe.engines()), {}
    assert len(names) == len(ENGINES)
    for path, tree in python_files.items():
        where = path.relative_to(ROOT)
        if where.parts[0] != "ctdiff" or where.parts[1] == "recipe":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare | ast.MatchValue):
                values = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
                compared |= {f"{where}:{node.lineno}": ast.unparse(node)} if values & names else {}
    assert compared == {}


def test_what_is_gone_stays_gone(project_files: list[Path]) -> None:
    """No question of which engine it is, and no folder that tools take for their own."""
    word = "is_" + "gaussian"
    assert [str(path) for path in project_files if word in path.read_text(encoding="utf-8", errors="ignore")] == []
    assert [str(path) for path in project_files if "build" in path.relative_to(ROOT).parts[:-1]] == []


BANNED_NAMES = {"reading", "readings", "decayed", "judge", "judges", "portrait", "portraits", "truth", "budgets"}
"""Words that names had before: the field says parameterisation, decay factor, evaluator, run card, law, NFE."""

READS_A_VALUE = {
    "continuous_diffusion/samplers/base.py",
    "diffusion_core/distributions/base.py",
    "diffusion_core/values.py",
    "discrete_diffusion/rates/fast/transitions.py",
}
"""Files whose docstrings speak of reading a number or an array."""


def test_names_are_those_of_the_field(python_files: dict[Path, ast.Module]) -> None:
    """No identifier or module has one of the banned words, and no docstring calls a parameterisation a reading."""
    word = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
    wrong, seen, readers = [], 0, set()
    for path, tree in python_files.items():
        where = path.relative_to(ROOT)
        if where.parts[0] not in MAY_IMPORT:
            continue
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        names = {path.stem, *(token.string for token in tokens if token.type == tokenize.NAME)}
        seen += len(names)
        wrong += [f"{where}: {name}" for name in names if BANNED_NAMES & {part.lower() for part in word.findall(name)}]
        documented = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
        if re.search(r"\breadings?\b", " ".join(ast.get_docstring(node) or "" for node in documented), re.IGNORECASE):
            readers.add(where.as_posix())
    assert seen > 10_000
    assert wrong == []
    assert readers == READS_A_VALUE


def test_no_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    names = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.stem in drawers]
    assert names == []


def test_the_arrows_between_the_nouns_are_typed(python_files: dict[Path, ast.Module]) -> None:
    """No `Any` in what goes from process to denoiser to posterior to loss and sampler."""
    nouns = {"process", "network", "denoiser", "posterior", "sample", "loss", "sampler", "predictor", "corrector"}
    results = {"__call__", "evaluate", "step", "posterior", "draw", "finish"}

    def annotations(tree: ast.Module) -> Iterator[tuple[int, ast.expr | None]]:
        for node in ast.walk(tree):
            named = (
                node.arg if isinstance(node, ast.arg) else ast.unparse(node.target) if isinstance(node, ast.AnnAssign) else ""
            )
            if isinstance(node, ast.arg | ast.AnnAssign) and named.split(".")[-1] in nouns:
                yield node.lineno, node.annotation
            elif isinstance(node, ast.FunctionDef) and node.name in results:
                yield node.lineno, node.returns

    found, seen = [], 0
    for path, tree in python_files.items():
        if path.relative_to(ROOT).parts[0] in (*ENGINES, "diffusion_core"):
            for line, annotation in annotations(tree):
                written = "nothing" if annotation is None else ast.unparse(annotation)
                seen += 1
                found += [f"{path}:{line} {written}"] if re.search(r"\b(Any|nothing)\b", written) else []
    assert seen > 150
    assert found == []


def test_values_are_looked_at_in_few_places(python_files: dict[Path, ast.Module]) -> None:
    """Reading a number stalls an accelerator and breaks a graph."""
    uses = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("readable(")
        for path in python_files
        if path.relative_to(ROOT).parts[0] in MAY_IMPORT
    }
    uses = {name: count for name, count in uses.items() if count}
    assert sum(uses.values()) <= 12, uses
    assert len(uses) <= 6, uses


def test_files_are_short_and_say_what_they_are(python_files: dict[Path, ast.Module]) -> None:
    installed = [path for path in python_files if path.relative_to(ROOT).parts[0] in MAY_IMPORT]
    assert len(installed) > 20
    assert [str(path) for path in installed if len(path.read_text(encoding="utf-8").splitlines()) > 400] == []
    assert [str(path) for path, tree in python_files.items() if tree.body and ast.get_docstring(tree) is None] == []
    future = "from __future__ import annotations"
    bare = [path for path in python_files if path.name != "__init__.py" and future not in path.read_text(encoding="utf-8")]
    assert bare == []


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_public_is_listed_and_explained(package: str) -> None:
    wrong = []
    for module in modules(package):
        if not hasattr(module, "__all__"):
            assert module.__name__ in PACKAGES, f"{module.__name__} has no __all__"
            continue
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                wrong += [f"{module.__name__}.{name}"] if not inspect.getdoc(thing) else []
            if inspect.isclass(thing) and thing.__module__.split(".")[0] in PACKAGES:
                methods = [key for key in vars(thing) if not key.startswith("_")]
                members = [(key, getattr(thing, key)) for key in methods]
                wrong += [f"{module.__name__}.{name}.{k}" for k, m in members if callable(m) and not inspect.getdoc(m)]
    assert sorted(set(wrong)) == []


# Twins


def parameters(function: object) -> list[tuple[str, str, object]]:
    """What a caller sees of a signature: names, kinds and defaults in order (types may narrow)."""
    assert callable(function)
    return [(item.name, item.kind.name, item.default) for item in inspect.signature(function).parameters.values()]


CONTRACTS = [
    (diffusion_core.Schedule, ["__call__"]),
    (diffusion_core.Process, ["sample", "prior", "renoise"]),
    (diffusion_core.Denoiser, ["forward"]),
    (diffusion_core.Loss, ["__call__", "check"]),
    (diffusion_core.Sampler, ["start", "step", "finish", "sample", "trajectory", "evaluate"]),
    (diffusion_core.TimeSampler, ["__call__", "update"]),
    (diffusion_core.TimeGrid, ["times"]),
    (diffusion_core.ShapedGrid, ["shape", "times"]),
]


@pytest.mark.parametrize(("contract", "names"), CONTRACTS, ids=lambda value: getattr(value, "__name__", ""))
def test_both_engines_keep_the_core_contracts(contract: type, names: list[str]) -> None:
    for package in PACKAGES:
        list(modules(package))
    children = [child for child in subclasses(contract) if child.__module__.split(".")[0] in PACKAGES]
    for child in children:
        for name in names:
            assert parameters(getattr(child, name)) == parameters(getattr(contract, name)), f"{child.__qualname__}.{name}"
    if contract not in (diffusion_core.TimeSampler, diffusion_core.TimeGrid, diffusion_core.ShapedGrid):
        assert {child.__module__.split(".")[0] for child in children} >= set(ENGINES), (
            f"{contract.__name__} has a twin in each engine"
        )


def test_both_engines_ask_for_clean_data_in_the_same_words() -> None:
    """What says p(x_0 | x_t) has the same methods in both engines, though no class in common."""
    for package in PACKAGES:
        list(modules(package))
    laws = [
        cls for base in (discrete_diffusion.X0Posterior, continuous_diffusion.Posterior) for cls in (base, *subclasses(base))
    ]
    assert len(laws) >= 6
    for name in ("log_prob", "sample", "mode"):
        assert len({tuple(parameters(getattr(law, name))) for law in laws}) == 1, name
    assert discrete_diffusion.Posterior.__abstractmethods__ == {"ratio", "jumps"}, "all that a sampler of rates needs"


def twins() -> list[tuple[str, Any, Any]]:
    """What has one name in both engines: (name, the discrete one, the Gaussian one)."""
    discrete, continuous = (
        {name: getattr(module, name) for module in modules(engine) for name in getattr(module, "__all__", [])}
        for engine in ENGINES
    )
    return [(name, discrete[name], continuous[name]) for name in sorted(set(discrete) & set(continuous))]


def test_twins_have_equal_signatures() -> None:
    """Public methods and functions of one name in both engines take the same arguments."""
    pairs = twins()
    methods = [
        (f"{name}.{key}", getattr(one, key), getattr(other, key))
        for name, one, other in pairs
        if inspect.isclass(one) and inspect.isclass(other)
        for key in sorted(set(vars(one)) & set(vars(other)))
        if inspect.isfunction(vars(one)[key]) and (not key.startswith("_") or key == "__call__")
    ]
    functions = [(name, one, other) for name, one, other in pairs if inspect.isfunction(one)]
    different = [name for name, one, other in methods + functions if parameters(one) != parameters(other)]
    assert different == []


def test_twins_are_made_of_the_same_things() -> None:
    """Constructors of one name begin with the same two arguments; an argument of one name is of one kind and default."""
    # A posterior is what a denoiser makes of its engine's own numbers: nobody else calls its constructor.
    pairs = [(name, one, other) for name, one, other in twins() if inspect.isclass(one) and name != "Posterior"]
    assert {"Ancestral", "Denoiser", "Sampler", "X0Denoiser"} <= {name for name, _, _ in pairs}
    for name, one, other in pairs:
        here, there = parameters(one), parameters(other)
        assert here[:2] == there[:2], name
        shared = {key for key, _, _ in here} & {key for key, _, _ in there}
        assert {item for item in here if item[0] in shared} == {item for item in there if item[0] in shared}, name


def test_what_is_a_sampler_s_own_is_given_by_name() -> None:
    """`Sampler(denoiser, grid, ...)`: what follows differs from sampler to sampler, and so does not go by its place."""
    for engine in ENGINES:
        list(modules(engine))
    children = [child for child in subclasses(diffusion_core.Sampler) if child.__module__.split(".")[0] in ENGINES]
    assert len(children) >= 9
    for child in children:
        placed = [name for name, kind, _ in parameters(child) if kind != "KEYWORD_ONLY"]
        assert placed in (["denoiser", "grid"], ["predictor", "corrector"]), child.__qualname__


def test_twins_are_in_files_of_one_name() -> None:
    """What implements a contract of the core is in the file of that name in either engine.

    What belongs together across contracts, as the schedule and the parameterisation of one path, may share a file of its own.
    """
    homes = {
        diffusion_core.Schedule: "schedules",
        diffusion_core.Process: "process",
        diffusion_core.Denoiser: ("denoisers", "guidance", "oracle"),
        diffusion_core.Loss: ("losses", "divergence"),
        diffusion_core.Sampler: "samplers",
    }
    for engine in ENGINES:
        list(modules(engine))
    taken = {name for home in homes.values() for name in (home if isinstance(home, tuple) else (home,))}
    wrong: dict[str, set[str]] = {}
    for contract, home in homes.items():
        for child in subclasses(contract):
            top, *rest = child.__module__.split(".")
            if top in ENGINES and rest[0] not in (home if isinstance(home, tuple) else (home,)):
                wrong.setdefault(child.__module__, set()).add(contract.__name__)
    assert {name: found for name, found in wrong.items() if name.split(".")[1] in taken or len(found) < 2} == {}


# What never enters the project


def test_no_words_of_one_machine_or_registry(project_files: list[Path]) -> None:
    words = HOME_WORDS + REGISTRY_WORDS + UNFINISHED_WORDS
    pattern = re.compile("|".join(re.escape(word) for word in words))
    found = []
    for path in project_files:
        content = path.read_bytes()
        if b"\0" in content:  # a picture or an archive
            continue
        for number, line in enumerate(content.decode("utf-8").splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    assert found == []


def test_nothing_executes_what_it_loads(python_files: dict[Path, ast.Module]) -> None:
    """No pickle: `torch.load` with weights_only=True alone, `np.load` with allow_pickle=False, no eval or exec."""
    wrong = []
    for path, tree in python_files.items():
        where = path.relative_to(ROOT)
        if where.parts[0] != "tests":  # tests make the pickles that have to be refused
            wrong += [f"{where} imports {name}" for name in imported(tree) if name in PICKLES]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called, keywords = ast.unparse(node.func), {item.arg: ast.unparse(item.value) for item in node.keywords}
            if called == "torch.load" and keywords.get("weights_only") != "True":
                wrong.append(f"{where}:{node.lineno}: torch.load without weights_only=True")
            if called in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
                wrong.append(f"{where}:{node.lineno}: {called} with allow_pickle")
            installed = where.parts[0] in MAY_IMPORT
            if installed and called in ("eval", "exec", "ssl._create_unverified_context"):
                wrong.append(f"{where}:{node.lineno}: {called}")
    assert wrong == []


def test_no_error_is_silenced_and_no_library_prints(python_files: dict[Path, ast.Module]) -> None:
    wrong = []
    for path, tree in python_files.items():
        where = path.relative_to(ROOT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
                silent = all(isinstance(line, ast.Pass) for line in node.body)
                if node.type is None or (broad and silent):
                    wrong.append(f"{where}:{node.lineno}: except that hides everything")
            prints = isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
            if prints and where.parts[0] in MAY_IMPORT and where != Path("ctdiff/cli/verb.py"):
                wrong.append(f"{where}:{node.lineno}: print")
    assert wrong == []


def test_examples_are_short_and_have_a_main(python_files: dict[Path, ast.Module]) -> None:
    examples = {path: tree for path, tree in python_files.items() if path.relative_to(ROOT).parts[0] == "examples"}
    assert examples
    for path, tree in examples.items():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 60, path.name
        names = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        assert "main" in names, path.name
        assert "if __name__ == " in path.read_text(encoding="utf-8"), path.name
