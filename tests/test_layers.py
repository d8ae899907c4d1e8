"""The house of design.md, read from the imports: what may import what, and where."""

import ast
import importlib
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT

APP = ROOT / "garmin_auth"
TOP_LEVEL_MODULES = 20
ENGINES = ("garth", "garminconnect", "personal", "http", "calls")
HTTP = tuple(f"garmin_auth.engines.{name}" for name in ENGINES)
# Slow to import, or optional: outside of the modules built on them, imported inside functions.
LIBRARIES = {
    "garth": ("garmin_auth.engines.garth",),
    "garminconnect": ("garmin_auth.engines.garminconnect",),
    "garmin_personal_api": ("garmin_auth.engines.personal",),
    "curl_cffi": ("garmin_auth.engines.garminconnect", "garmin_auth.engines.http.curl"),
    "requests": HTTP,
    "urllib3": HTTP,
    "certifi": HTTP,
    "celery": ("garmin_auth.checking.celery_tasks",),
    "django_tasks": ("garmin_auth.checking.django_tasks",),
    "health_check": ("garmin_auth.health_checks",),
    "rest_framework": (),
    "kombu": ("garmin_auth.checking.celery_tasks",),
    "tqdm": (),
    "packaging": (),
    "trustme": ("garmin_auth.testing",),
    "oauthlib": ("garmin_auth.testing",),
    "pytest": ("garmin_auth.testing",),
}
# What the others may import of the engines at the top: these load no library.
LIGHT_ENGINE_MODULES = {
    "garmin_auth.engines",
    "garmin_auth.engines.base",
    "garmin_auth.engines.frozen",
    "garmin_auth.engines.interruptions",
    "garmin_auth.engines.reasons",
    "garmin_auth.engines.secret",
    "garmin_auth.engines.tracebacks",
    "garmin_auth.engines.verdicts",
}
SERVICES = {
    f"garmin_auth.{name}"
    for name in (
        "accounts",
        "admin",
        "api",
        "checking",
        "health",
        "health_checks",
        "limits",
        "login",
        "logins",
        "management",
        "metrics",
        "notices",
        "rotation",
        "sessions",
        "tasks",
        "views",
    )
}


class Import(NamedTuple):
    """One imported module, and whether that happens when the importing one is loaded."""

    importer: str
    imported: str
    at_load: bool

    def __str__(self):
        return f"{self.importer} imports {self.imported}"


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """Read each import of a file. ``from . import name`` counts as one of ``name``, if a module."""
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    later = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef) or is_for_types(outer)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [
                module
                for alias in node.names
                for module in modules_of(absolute(node, package), alias.name)
            ]
        else:
            continue
        for imported in found:
            yield Import(name, imported, id(node) not in later)


def is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def absolute(node, package):
    if not node.level:
        return node.module
    parent = package.rsplit(".", node.level - 1)[0]
    return f"{parent}.{node.module}" if node.module else parent


def modules_of(module, name):
    path = ROOT.joinpath(*module.split("."), name)
    if module.startswith("garmin_auth") and (path.with_suffix(".py").exists() or path.is_dir()):
        return [f"{module}.{name}"]
    return [module]


def within(module, packages):
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.fixture(scope="module")
def imports():
    found = [each for path in APP.rglob("*.py") for each in imports_of(path)]
    assert len(found) > 500
    return found


def test_few_modules_stand_at_the_top():
    assert len(list(APP.glob("*.py"))) <= TOP_LEVEL_MODULES


def test_engines_import_settings_and_exceptions_and_nothing_else_of_the_app(imports):
    allowed = ("garmin_auth.conf", "garmin_auth.exceptions", "garmin_auth.engines")
    assert not [
        str(each)
        for each in imports
        if within(each.importer, ["garmin_auth.engines"])
        and within(each.imported, ["garmin_auth"])
        and not within(each.imported, allowed)
    ]


@pytest.mark.parametrize("layer", ["garmin_auth.models", "garmin_auth.storage"])
def test_models_and_storage_import_no_engine_and_no_service(imports, layer):
    assert not [
        str(each)
        for each in imports
        if within(each.importer, [layer])
        and within(each.imported, {*SERVICES, "garmin_auth.engines"})
    ]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_at_load_only_where_it_is_at_home(imports, library):
    assert not [
        str(each)
        for each in imports
        if each.at_load
        and within(each.imported, [library])
        and not within(each.importer, LIBRARIES[library])
    ]


@pytest.mark.parametrize("library", ["garth", "garminconnect", "garmin_personal_api", "curl_cffi"])
def test_an_engines_library_is_imported_by_that_engine_alone(imports, library):
    assert not [
        str(each)
        for each in imports
        if within(each.imported, [library]) and not within(each.importer, LIBRARIES[library])
    ]


def test_garth_itself_is_imported_by_one_module(imports):
    importers = {each.importer for each in imports if within(each.imported, ["garth"])}

    assert importers == {"garmin_auth.engines.garth.library"}


def test_what_loads_a_library_is_loaded_by_nothing_that_starts(imports):
    heavy = {
        "garmin_auth.checking.celery_tasks",
        "garmin_auth.checking.django_tasks",
        "garmin_auth.health_checks",
    } | {
        each.imported
        for each in imports
        if within(each.imported, ["garmin_auth.engines"])
        and each.imported not in LIGHT_ENGINE_MODULES
        and not within(each.imported, ["garmin_auth.engines.http.redaction"])
    }
    assert not [
        str(each)
        for each in imports
        if each.at_load
        and each.imported in heavy
        and (
            each.importer in LIGHT_ENGINE_MODULES
            or not within(each.importer, ["garmin_auth.engines"])
        )
        and each.importer != "garmin_auth.tasks"  # Which looks for Celery first.
    ]


def test_tests_import_a_public_name_from_where_it_is_public():
    public = [
        importlib.import_module(module_name(path))
        for path in APP.rglob("*.py")
        if (path.name == "__init__.py" or path.parent == APP) and "__all__" in path.read_text()
    ]
    assert {"garmin_auth.health", "garmin_auth.engines.garth"} <= {each.__name__ for each in public}

    assert not [
        f"{path.relative_to(ROOT)} imports {name} from {node.module}, not from {module.__name__}"
        for path in Path(ROOT, "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and within(node.module or "", ["garmin_auth"])
        for name in [alias.name for alias in node.names]
        for module in public
        if name in module.__all__ and node.module != module.__name__
        if getattr(importlib.import_module(node.module), name) is getattr(module, name)
    ]
