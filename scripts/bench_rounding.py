"""How far a checkpoint's log-likelihoods move with layout, dtype and device, on real items.

    python scripts/bench_rounding.py CHECKPOINT [--items 300] [--sets neqa,memo-trap]

Each answer is compared with its log-likelihood in float32 on a CPU, in the packs of a study: in
smaller packs, one request at a time, in float16 and bfloat16, and on a GPU where there is one.
Items come from the mirror: DOWNSLOPE_MIRROR, or ../shared/data. CHECKPOINT is a folder with a
trained model and its tokenizer.
"""

import argparse
import os
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="true")
from downslope.bench.rounding import moved
from downslope.bench.sets import SETS, find_mirror, named, read_sets
from downslope.logs import log_to


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    most = "of each set at most so many, evenly spread (%(default)s)"
    parser.add_argument("--items", type=int, default=300, metavar="N", help=most)
    known = f"data sets of config/datasets.tsv ({','.join(SETS)})"
    parser.add_argument("--sets", type=named, default=list(SETS), metavar="A,B", help=known)
    given = parser.parse_args()
    if given.items < 1:
        parser.error("--items: at least 1")
    if not given.checkpoint.is_dir():
        parser.error(f"CHECKPOINT: there is no folder {given.checkpoint}")
    with log_to(None):
        sets = [
            bench.thinned(-(-len(bench.items) // given.items))
            for bench in read_sets(given.sets, find_mirror())
        ]
        print(f"{'':39}  {'set':17}  items  largest   median  decided otherwise")
        for row in moved(given.checkpoint, sets):  # minutes: each line as soon as it is known
            largest, median = (f"{number:.0e}" if number else "0" for number in row[3:5])
            print(f"{row.way:39}  {row.set:17}  {row.items:5}  {largest:>7}  {median:>7}  "
                  f"{row.differ}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
