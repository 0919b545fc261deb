"""Fixtures shared by all tests: real data where it is at hand, and a tiny real study."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from cluster import Cluster, NoCluster
from downslope.tokenization import FolderTokenizer
from forked import snakemake
from tiny_study import ROOT, make_study, make_tokenizer

# The same examples in every run, however long one takes.
settings.register_profile("downslope", deadline=None, derandomize=True, database=None)
settings.load_profile("downslope")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The workers of a test run are as many as the cores; threads of theirs would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LONGEST = (
    *("test_demo", "test_slurm", "test_faults", "test_weights_pass", "test_slurm_weights"),
    "test_scale",
    *("test_against_harness", "test_contract", "test_hub_study", "test_harness_study"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest begin first, so that no worker is left with one at the end."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    place = Path(os.environ.get("DOWNSLOPE_MIRROR", ROOT / "../shared/data"))
    if not (place / "inverse_scaling").is_dir():
        pytest.skip(
            "no data sets at hand: set DOWNSLOPE_MIRROR to a folder laid out like the mirror "
            "paths in config/datasets.tsv"
        )
    return place.resolve()


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def pythia_tokenizer(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> FolderTokenizer:
    """The tokenizer of the Pythia models."""
    folder = tmp_path_factory.mktemp("pythia")
    shutil.copy(mirror / "pythia_tokenizer/tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPTNeoXTokenizerFast"}')
    return FolderTokenizer(folder)


@pytest.fixture(scope="session")
def reference_model(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with Pythia's tokenizer, trained on the published items' text."""
    from reference_model import train_reference_model

    return train_reference_model(tmp_path_factory.mktemp("reference"), mirror)


@pytest.fixture(scope="session")
def fresh_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny study of which nothing has run; tests copy it before they change it."""
    return make_study(tmp_path_factory.mktemp("fresh") / "study")


@pytest.fixture(scope="session")
def finished_study(fresh_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study after one whole run; tests copy it before they change it."""
    study = tmp_path_factory.mktemp("finished") / "study"
    shutil.copytree(fresh_study, study)
    snakemake(study)
    return study


@pytest.fixture
def study(finished_study: Path, tmp_path: Path) -> Path:
    """A finished study of the test's own, dates and Snakemake's records included."""
    place = tmp_path / "study"
    shutil.copytree(finished_study, place)
    return place


@pytest.fixture(scope="session")
def start_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """Starts a SLURM cluster; it ends with the session. Skips where there can be none, unless
    DOWNSLOPE_DEMAND_SLURM is set, as continuous integration does.
    """
    with ExitStack() as stack:

        def start(**options: bool | int) -> Cluster:
            try:
                return stack.enter_context(Cluster(tmp_path_factory.mktemp("slurm"), **options))
            except NoCluster as reason:
                if os.environ.get("DOWNSLOPE_DEMAND_SLURM"):
                    pytest.fail(f"DOWNSLOPE_DEMAND_SLURM is set, but {reason}")
                pytest.skip(str(reason))

        yield start


@pytest.fixture(scope="session")
def cluster(start_cluster: Callable[..., Cluster]) -> Cluster:
    """A SLURM cluster with two GPUs, without accounting."""
    return start_cluster()
