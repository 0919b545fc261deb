"""One set of versions: requirements, constraints, conda files, and what these tests run with."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tiny_study import ROOT

CONDA_NAMES = {"pytorch": "torch"}


def pins(path: Path) -> dict[str, str]:
    """Package to version of the `name==version` lines of a requirements file."""
    lines = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[\w+\])?==(\S+)$", path.read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): pinned for name, pinned in lines}


REQUIRED = pins(ROOT / "requirements.txt")


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_the_tests_run_with_the_pinned_version(name: str) -> None:
    assert version(name).split("+")[0] == REQUIRED[name]


def test_constraints_agree_with_requirements() -> None:
    constraints = pins(ROOT / "constraints.txt")
    shared = (REQUIRED | pins(ROOT / "requirements-test.txt")).items()
    assert {name: constraints.get(name, pin) for name, pin in shared} == dict(shared)
    unpinned = {name for name, _ in shared} - set(constraints)
    assert unpinned == {"torch"}, "its builds differ by platform"


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda p: p.stem)
def test_conda_files_name_the_same_versions(path: Path) -> None:
    from rattler import MatchSpec

    dependencies = yaml.safe_load(path.read_text())["dependencies"]
    for text in dependencies:
        spec = MatchSpec(text)
        name = str(spec.name.normalized if hasattr(spec.name, "normalized") else spec.name)
        if name == "python":
            continue
        pinned = REQUIRED[CONDA_NAMES.get(name, name).replace("_", "-")]
        assert text.split("=", 1)[1].strip() == pinned, text


def test_every_rule_names_an_environment_that_exists() -> None:
    for rules in (ROOT / "rules").glob("*.smk"):
        for name in re.findall(r'"\.\./(envs/[^"]+)"', rules.read_text()):
            assert (ROOT / name).is_file(), f"{rules.name} names {name}"


def test_what_the_user_fixed_is_there() -> None:
    for name in ("snakemake", "torch", "transformers", "pandas", "statsmodels", "matplotlib"):
        assert name in REQUIRED
    for name in ("Snakefile", "rules", "envs", "config", "scripts", "profiles", "tests"):
        assert (ROOT / name).exists()
    assert (ROOT / "slurm/profile.yaml").is_file(), "the link for `snakemake --profile slurm`"
    assert not (ROOT / "profiles/default").exists(), "it would override every other profile"


def test_jobs_lose_the_same_names_in_the_profile_and_in_the_script() -> None:
    pattern = re.search(r"grep -iE '(.*?)'", (ROOT / "profiles/slurm/profile.yaml").read_text())
    script = re.search(r'_SECRET = r"(.*)"', (ROOT / "scripts/score_checkpoint.py").read_text())
    assert pattern
    assert script
    assert pattern[1] == script[1]
    secrets = "HF_TOKEN WANDB_API_KEY AWS_ACCESS_KEY_ID APIKEY KEY TOKEN_FILE SECRET_VALUE"
    for name in (*secrets.split(), "MY_PASSWD", "DB_PASS", "hf_token", "GOOGLE_CREDENTIALS"):
        assert re.search(pattern[1], name, re.IGNORECASE), name
    for name in ("PWD", "OLDPWD", "PATH", "TOKENIZERS_PARALLELISM", "KEYBOARD", "SLURM_JOB_ID"):
        assert not re.search(pattern[1], name, re.IGNORECASE), name
