"""Make a study from a folder of lm-evaluation-harness output, made by anyone.

    python scripts/adopt_harness.py RESULTS STUDY
    snakemake --directory STUDY --cores all

RESULTS is searched for the JSON files of the harness, 0.3 or 0.4. STUDY/config/ is written:
config.yaml, checkpoints.tsv, tasks.tsv; nothing there is overwritten. Look at them, they are
yours to change: which model is which checkpoint (harness.models), what is tested (families).
"""

import argparse
from pathlib import Path

import pandas as pd

from downslope.errors import StudyError
from downslope.files import atomic_write
from downslope.harness_adopt import Adoption, Wishes, adopt, config_text
from downslope.harness_cells import cell_rows, cells_frame, gather, read_results
from downslope.harness_metrics import MetricNames
from downslope.logs import log_to
from downslope.tsv import write_tsv

MOST_NAMED = 5


def main() -> None:
    given = arguments()
    with log_to(None):
        target = given.study / "config"
        for name in ("config.yaml", "checkpoints.tsv", "tasks.tsv"):
            if (target / name).exists():
                raise StudyError(
                    "is there already, and nothing is overwritten",
                    where=str(target / name),
                    remedy="Choose another STUDY, or delete the file.",
                )
        files = read_results({"folder": given.results, "files": given.files})
        wishes = Wishes(
            title=given.title or f"Evaluations in {given.results.name}",
            files=given.files,
            patterns=given.pattern,
            path_patterns=given.path_pattern,
            tasks=given.tasks,
            without=given.without,
            tokens_per_step=dict(given.tokens_per_step),
            steps=dict(given.step),
            seed=given.seed,
            better=dict(given.better),
        )
        adoption = adopt(files, folder_text(given.results, given.study), wishes)
        config, rows = adoption.config["harness"], adoption.checkpoints
        names = MetricNames(config.get("metrics", {}), "harness.metrics")
        tasks = [row["task"] for row in adoption.tables.rows]
        found = gather(files, config, rows, tasks, names)  # refuses what importing would refuse
        cells = [cell for task in tasks for cell in cell_rows(task, found[task], names)]
        frame = cells_frame(cells, rows, tasks, names)
        samples = sum(
            each.file.samples(each.source) is not None for f in found.values() for each in f
        )
        write_tsv(pd.DataFrame(rows), target / "checkpoints.tsv")
        write_tsv(pd.DataFrame(adoption.tables.rows), target / "tasks.tsv")
        with atomic_write(target / "config.yaml") as temporary:
            temporary.write_text(config_text(adoption.config), encoding="utf-8")
    print(report(adoption, frame, len(files), samples, given.study))


def report(adoption: Adoption, cells: pd.DataFrame, files: int, samples: int, study: Path) -> str:
    """What was found, what was not, and what to do next."""
    rows = pd.DataFrame(adoption.checkpoints)
    lines = ["", f"{files} files of results, {len(rows)} checkpoints:"]
    for (family, seed), own in rows.groupby(["family", "seed"]):
        sizes = own["parameters"].drop_duplicates().sort_values()
        steps = f"{own['step'].nunique()} steps ({own['step'].min()} to {own['step'].max()})"
        per_step = adoption.tokens.get(str(family))
        read = f", {per_step:,} tokens a step" if per_step else ""
        lines.append(f"  {family}, seed {seed}: {len(sizes)} sizes, {steps}{read}")
    tasks = adoption.tables.rows
    lines.append(f"{len(tasks)} tasks: {listed([row['task'] for row in tasks])}")
    counts = cells.groupby("metric", sort=False).size()
    expected = (rows["known_bad"] == "").sum() * len(cells[["task", "metric"]].drop_duplicates())
    shown = ", ".join(f"{metric} ({count})" for metric, count in counts.items())
    lines.append(f"{len(cells)} cells: {shown}; {expected - len(cells)} missing")
    lines.append(f"{samples} files of samples: " + ("items can be compared" if samples else "none"))
    for metric, count in adoption.tables.unknown.items():
        lines.append(
            f"not imported: {metric} ({count} values); nothing says what is better, so say it: "
            f"--better {metric}=higher (or lower)"
        )
    if adoption.unplaced:
        lines.append(f"{len(adoption.unplaced)} models not placed, named under leave_out:")
        for text, where in list(adoption.unplaced.items())[:MOST_NAMED]:
            lines.append(f"  {text}  ({len(where)} files, the first {where[0]})")
        lines.append("  to take them in: --pattern or --path-pattern with the groups family,")
        lines.append("  parameters, step, seed; --step FAMILY=N for models that name no step")
    lines.append(f"\nWritten: {study}/config/. Look at its three files, then run")
    lines.append(f"  snakemake --directory {study} --cores all")
    return "\n".join(lines)


def listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def folder_text(results: Path, study: Path) -> str:
    """The folder as the config names it: relative to the study where it lies in the study."""
    whole, place = results.resolve(), study.resolve()
    return whole.relative_to(place).as_posix() if whole.is_relative_to(place) else str(whole)


def pair(text: str) -> tuple[str, int]:
    """`FAMILY=N` or `N` (for every family): its two parts."""
    family, _, number = text.rpartition("=")
    try:
        return family, int(float(number.replace(",", "").replace("_", "")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not FAMILY=N") from None


def direction(text: str) -> tuple[str, str]:
    """`METRIC=higher` or `METRIC=lower`: its two parts."""
    metric, _, better = text.rpartition("=")
    if not metric or better not in ("higher", "lower"):
        raise argparse.ArgumentTypeError(f"{text!r} is not METRIC=higher or METRIC=lower")
    return metric, better


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "results", type=Path, metavar="RESULTS", help="folder, searched recursively"
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="folder of the study to make")
    parser.add_argument("--title", help="title of the study, as tables and figures print it")
    parser.add_argument("--files", default="**/*.json", metavar="GLOB",
                        help="files to read, below RESULTS (%(default)s)")  # fmt: skip
    parser.add_argument("--tasks", nargs="+", default=[], metavar="GLOB",
                        help="harness tasks to take (all)")  # fmt: skip
    parser.add_argument("--without", nargs="+", default=[], metavar="GLOB",
                        help="harness tasks not to take")  # fmt: skip
    parser.add_argument("--better", action="append", default=[], type=direction,
                        metavar="METRIC=higher|lower",
                        help="what is better, for a metric of which nothing says it")  # fmt: skip
    parser.add_argument("--pattern", action="append", default=[], metavar="REGEX",
                        help="how model_args name a checkpoint: groups family, parameters, step "
                        "(seed, tokens, variant); repeatable, tried first")  # fmt: skip
    parser.add_argument("--path-pattern", action="append", default=[], metavar="REGEX",
                        help="the same for the path of the file below RESULTS")  # fmt: skip
    parser.add_argument("--tokens-per-step", action="append", default=[], type=pair,
                        metavar="[FAMILY=]N", help="tokens that a training step reads")  # fmt: skip
    parser.add_argument("--step", action="append", default=[], type=pair, metavar="FAMILY=N",
                        help="the step of models of FAMILY that name none")  # fmt: skip
    parser.add_argument(
        "--seed", type=int, help="seed of runs that name none (Pythia 1234, else 0)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
