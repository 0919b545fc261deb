"""Time Downslope's engine beside lm-evaluation-harness, on real items and random weights.

    python scripts/bench_engine.py [--out FOLDER]

One table, printed and written to FOLDER as bench.md and bench.tsv. Items come from the mirror:
DOWNSLOPE_MIRROR, or ../shared/data. Let nothing else run on the machine meanwhile.
"""

import argparse
import os
from pathlib import Path

# Nothing may be fetched; both sides tokenise with all cores.
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="true")
from downslope.bench.models import ARCHITECTURES, SHAPES
from downslope.bench.page import as_frame, markdown_page, terminal_page
from downslope.bench.rounds import LEAST_ITEMS, TIES
from downslope.bench.run import Settings, bench
from downslope.bench.sets import SETS, named
from downslope.files import atomic_write
from downslope.logs import log_to
from downslope.tsv import write_tsv


def main() -> None:
    given = arguments()
    with log_to(None):
        report = bench(
            Settings(
                shapes=given.shapes,
                sets=given.sets,
                architecture=given.architecture,
                seconds=given.seconds,
                device=given.device,
                dtype=given.dtype,
                harness=not given.no_harness,
            )
        )
        write_tsv(as_frame(report.rows), given.out / "bench.tsv")
        with atomic_write(given.out / "bench.md") as temporary:
            temporary.write_text(markdown_page(report), encoding="utf-8")
    print(terminal_page(report))
    print(f"\nWritten: {given.out}/bench.md, {given.out}/bench.tsv")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", type=named, default=["70m", "410m"], metavar="A,B",
                        help=f"of {', '.join(SHAPES)} (70m,410m)")  # fmt: skip
    parser.add_argument("--architecture", default="gpt-neox", metavar="NAME",
                        help=f"%(default)s, or one of {', '.join(ARCHITECTURES)}")  # fmt: skip
    parser.add_argument("--sets", type=named, default=list(SETS), metavar="A,B",
                        help=f"data sets of config/datasets.tsv ({','.join(SETS)})")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=840,
                        help="for all of it; fractions follow from it, but of each set at least "
                        f"{LEAST_ITEMS} items are timed (%(default)s)")  # fmt: skip
    parser.add_argument("--device", default="cpu", metavar="NAME", help="%(default)s, or cuda")
    parser.add_argument("--dtype", default="float32", metavar="NAME",
                        help=f"%(default)s, or one of {', '.join(TIES)}")  # fmt: skip
    parser.add_argument("--no-harness", action="store_true", help="time Downslope alone")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), metavar="FOLDER",
                        help="where bench.md and bench.tsv go (%(default)s)")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    main()
