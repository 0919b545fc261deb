"""Rules name the modules that their results depend on; Snakemake sees no import by itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "scripts/downslope"
RULES = "\n".join(
    (ROOT / f"rules/{name}.smk").read_text(encoding="utf-8")
    for name in ("stats", "drift", "figures", "design")
)
NO_RESULT = {
    *("errors.py", "files.py", "identity.py", "logs.py", "process.py", "termination.py", "text.py"),
}
"""How a file is written and what a message says: an edit changes no number and no picture."""


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, and those that they import."""
    found: set[str] = set()
    waiting = [path]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            package, _, module = (node.module or "").partition(".")
            names = [module] if module else [alias.name for alias in node.names]
            new = {f"{name}.py" for name in names if package == "downslope"} - found
            found |= new
            waiting += [PACKAGE / name for name in new]
    return found


def blocks() -> dict[str, str]:
    """The text of each rule that names modules, by the name of its script."""
    parts = re.split(r"^(?:rule|checkpoint) \w+:\n", RULES, flags=re.MULTILINE)[1:]
    named = [part for part in parts if "modules_digest(" in part]
    return {re.findall(r'"\.\./scripts/(\w+\.py)"', part)[0]: part for part in named}


def listed(text: str) -> set[str]:
    """Modules in a text, and in the lists that it takes from above."""
    found = set(re.findall(r'"(\w+\.py)"', text))
    for name in re.findall(r"(?<!\*)\*([A-Z]+)\b", text):
        (body,) = re.findall(rf"^{name} = \[(.*?)\]", RULES, flags=re.MULTILINE | re.DOTALL)
        found |= listed(body)
    return found


def test_there_are_rules_to_look_at() -> None:
    assert {"fit_effects.py", "measure_drift.py", "plot_forest.py", "calibrate.py"} <= set(blocks())


@pytest.mark.parametrize("script", sorted(blocks()))
def test_a_rule_names_what_its_script_imports(script: str) -> None:
    missing = imported(ROOT / "scripts" / script) - NO_RESULT - listed(blocks()[script])
    assert not missing, f"an edit of these would rerun nothing: {sorted(missing)}"
