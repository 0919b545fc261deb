"""Say how far a study has come: done, running, queued, failed, waiting; asks files and SLURM.

    python scripts/show_status.py [STUDY] [--all | --tsv]

STUDY is the study's folder, by default the current one. Snakemake may be at work or not; nothing
of it is changed. Numbers of packs are those of the plans that exist now.
"""

import argparse
import os
import sys
from pathlib import Path

from downslope.errors import StudyError
from downslope.slurm_queue import submitted
from downslope.status import StudyStatus
from downslope.status_page import status_page, status_table
from downslope.study import load_study


def main() -> None:
    given = arguments()
    try:
        study = load_study(given.study)
        if study.config["cells"] != "scores":
            print(f"{study.config['title']}: takes its cells from results that others computed "
                  "(cells in config.yaml); there is nothing to score.",
                  file=sys.stderr if given.tsv else sys.stdout)  # fmt: skip
            return
        jobs, silence = submitted(given.study)
        status = StudyStatus(study, jobs)
        standings = status.standings()
    except StudyError as error:
        sys.exit(f"{error}")
    if given.tsv:
        status_table(standings).to_csv(sys.stdout, sep="\t", index=False, lineterminator="\n")
        if silence:
            print(silence, file=sys.stderr)
        return
    print(status_page(study.config["title"], status.tasks, standings, every=given.all), end="")
    if silence:
        print(f"\n{silence}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", nargs="?", type=Path, default=Path(), metavar="STUDY",
                        help="the study's folder (the current one)")  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--all", action="store_true", help="a line for every checkpoint")
    form.add_argument("--tsv", action="store_true",
                      help="a table with a row for every checkpoint and task")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
