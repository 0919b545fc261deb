# Reads and checks the study, and answers the questions that rules ask about it.
# Needs config/config.yaml, checkpoints.tsv and tasks.tsv in the working directory.
import gc
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from downslope.errors import StudyError
from downslope.identity import SCORING_MODULES, modules_digest
from downslope.locked import Lock, local_files, require_tokenizer_folder
from downslope.study import load_study
from downslope.study_checks import lone_checkpoints, own_files, require_within
from downslope.touched import lost_scores, refuse_touched

# The jobs of a large study are hundreds of thousands of objects, all of which stay: looking for
# garbage among them as often as Python does by default takes seconds.
gc.set_threshold(100_000, 50, 100)

if any(
    Path(path).resolve() != Path("config/config.yaml").resolve()
    for path in workflow.configfiles
):
    raise WorkflowError(
        "--configfile would mix one study's config with another's tables. "
        "Choose a study by its folder: snakemake --directory STUDY."
    )

try:
    STUDY = load_study(Path("."), config)
    LOCAL_FILES = {
        row.ckpt: local_files(row)
        for row in STUDY.usable
        if STUDY.config["cells"] == "scores" and not row.is_hub
    }
    for name, tokenizer in STUDY.config.get("tokenizers", {}).items():
        require_tokenizer_folder(name, tokenizer["source"])
except StudyError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process:
    for sentence in lone_checkpoints(STUDY.usable, Path("config/checkpoints.tsv")):
        logger.warning(sentence)

CKPTS = [row.ckpt for row in STUDY.usable]
TASKS = sorted(STUDY.by_task)
LOCK = Lock(STUDY, Path("config/checkpoints.lock.tsv"), tell=logger.warning)

if STUDY.config["cells"] == "scores" and workflow.is_main_process:
    try:
        refuse_touched(
            (
                Path(f"results/scores/{ckpt}/{task}.parquet")
                for ckpt in CKPTS
                for task in TASKS
            ),
            dtype=STUDY.config["dtype"],
            modules=modules_digest(SCORING_MODULES),
            records=Path(".snakemake/metadata"),
        )
    except StudyError as error:
        raise WorkflowError(str(error)) from None


wildcard_constraints:
    ckpt="[a-z0-9]+(?:[._-][a-z0-9]+)*",
    task="[a-z0-9]+(?:[._-][a-z0-9]+)*",
    dataset="[a-z0-9]+(?:[._-][a-z0-9]+)*",
    tokenizer="[a-z0-9]+(?:[._-][a-z0-9]+)*",
    file="[A-Za-z0-9][A-Za-z0-9._-]*",
    scope="(partial/)?",


def targets(scope=""):
    """What `all` makes, or with scope `partial/` the same from what exists so far."""
    names = ["cells.tsv", "coverage.tsv", "metrics.tsv"]
    tables = ["verdicts", "effects", "trends", "run_trends", "drift", "flipped"]
    names += [f"stats/{table}.tsv" for table in tables] + ["stats/verdicts.md"]
    names += [f"stats/table1.{form}" for form in ("tsv", "md", "tex")]
    figures = ["accuracy", "forest", "heatmap", "shapes", "slopes", "drift"]
    names += [f"figures/{f}.{form}" for f in figures for form in ("pdf", "svg", "png")]
    return [f"results/{scope}{name}" for name in names]


def unpublished(wildcards):
    """Scores whose cells exist but which were deleted: a target that needs cells makes them."""
    if STUDY.config["cells"] != "scores":
        return []
    return lost_scores(CKPTS, [task.task for task in STUDY.reported])


def checkpoint_rows(rows):
    """Table rows as parameters, in an order that does not depend on that of the table."""
    return [
        {key: value for key, value in vars(row).items() if key != "line"}
        for row in sorted(rows, key=lambda row: row.ckpt)
    ]


def arithmetic_notes():
    """What Table 1 says about precision, where this study scored its checkpoints itself."""
    if STUDY.config["cells"] != "scores":
        return []
    return [f"Models in {STUDY.config['dtype']}; softmax and sums in float32 or wider."]


def allowed_loss(wildcards):
    """How far an outcome may fall before the target `drift` fails."""
    if "drift" not in config:
        raise WorkflowError(
            "config/config.yaml: lacks the key 'drift', by which the target `drift` knows what "
            "may be lost. Add for example: drift: {allowed_loss: 0.02}"
        )
    return config["drift"]["allowed_loss"]


def exported(wildcards):
    """Folders of all checkpoints' scores as lm-evaluation-harness writes them."""
    if STUDY.config["cells"] != "scores":
        raise WorkflowError(
            f"config/config.yaml: with `cells: {STUDY.config['cells']}` the study takes its cells "
            "from results that others computed; there are no scores of its own to export."
        )
    return expand("results/harness/{ckpt}", ckpt=CKPTS)


def budget(wildcards):
    """What may be spent on checkpoints."""
    if "budget" not in config:
        raise WorkflowError(
            "config/config.yaml: lacks the key 'budget', by which checkpoints are chosen. "
            "Add for example: budget: {gpu_hours: 20, download_gb: 200}"
        )
    return config["budget"]


def dataset_of(wildcards):
    """The verified file of a task's data set."""
    row = STUDY.datasets[STUDY.by_task[wildcards.task].dataset]
    return f"resources/datasets/{row['dataset']}/{row['file']}"


def harness_files():
    """The output of lm-evaluation-harness that a study takes its cells from."""
    from downslope.harness_files import input_files

    harness = config["harness"]
    try:
        return input_files(Path(harness["folder"]), harness.get("files", "**/*.json"))
    except StudyError as error:
        raise WorkflowError(str(error)) from None


def plans_to_count(wildcards):
    """The plans that can be made from what is on this disk."""
    from downslope.cost_inputs import plans_at_hand

    try:
        return plans_at_hand(STUDY, LOCK, os.environ.get("DOWNSLOPE_MIRROR"))
    except StudyError as error:
        raise WorkflowError(str(error)) from None


def own_source(dataset):
    """A data set's source where it is a file of the study, so that a rule can make it.

    Raised here, the error stops only what needs the file: neither a study that has it in
    resources/ already nor a target without it.
    """
    try:
        return own_files(STUDY.datasets[dataset], Path("config/datasets.tsv"))
    except StudyError as error:
        raise WorkflowError(str(error)) from None


def plan_of(task, ckpt):
    """The plan by which a checkpoint is scored on a task."""
    return f"resources/plans/{STUDY.by_ckpt[ckpt].tokenizer}/{task}.safetensors"


def plan_list_of(ckpt):
    """The list of all plans by which a checkpoint is scored."""
    return f"resources/plans/{STUDY.by_ckpt[ckpt].tokenizer}.tsv"


def refuse_too_large():
    """Stop before any job where a checkpoint that is yet to be scored is larger than the whole
    disk budget. Raised by an input function, Snakemake would take scores that exist instead.
    """
    limit = STUDY.machine.get("disk_budget_gb")
    sizes = LOCK.sizes() if limit and STUDY.config["cells"] == "scores" else {}
    for ckpt in sorted(sizes.keys() & set(CKPTS)):
        try:
            require_within(STUDY.by_ckpt[ckpt], sizes[ckpt], limit)
        except StudyError as error:
            scores = (Path(f"results/scores/{ckpt}/{task}.parquet") for task in TASKS)
            if not all(score.is_file() for score in scores):
                raise WorkflowError(str(error)) from None


def manifest_of(ckpt):
    """The list of files and digests that says what a checkpoint's weights are."""
    place = (
        "weights/{}/fetched.tsv"
        if STUDY.by_ckpt[ckpt].is_hub
        else "fingerprints/{}.tsv"
    )
    return f"resources/{place.format(ckpt)}"


def weights_folder(ckpt):
    """Where a checkpoint's files lie: fetched from the hub, or the user's own folder."""
    row = STUDY.by_ckpt[ckpt]
    return f"resources/weights/{ckpt}" if row.is_hub else row.source


def bytes_on_disk(ckpt):
    """What a checkpoint's files take, by the lock or as they lie there; 0 if neither says it."""
    if STUDY.by_ckpt[ckpt].is_hub:
        return LOCK.sizes().get(ckpt, 0)
    files = map(Path, LOCAL_FILES[ckpt])
    return sum(file.stat().st_size for file in files if file.is_file())


def tokenizer_source(name):
    """`hub:owner/name` or the folder that a tokenizer is taken from."""
    return STUDY.config["tokenizers"][name]["source"]


def locked(name):
    """Digest of the lock's rows of a checkpoint or `tokenizer:<name>`; stops a real run
    where the lock is missing or stale. A dry run needs none and says so.
    """
    try:
        return LOCK.digest(name, needed=not workflow.dryrun)
    except StudyError as error:
        raise WorkflowError(str(error)) from None
