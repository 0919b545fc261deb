# Log-likelihoods --> cells: every metric of every checkpoint and task, and what is missing.
# A study whose config says `cells: import` takes its cells from a published table instead, one
# that says `cells: harness` from the output of lm-evaluation-harness. Without items (as in the
# published file) the files of item values are empty.
# Target `partial` makes the same tables from what the store holds so far, under results/partial/.

from downslope.failures import failure_reasons
from downslope.status import StudyStatus

CELL_MODULES = modules_digest(
    [
        *("aggregate.py", "cells.py", "item_values.py", "layout.py"),
        *("metrics.py", "protocols.py", "tsv.py", "versions.py"),
    ]
)
REPORTED = [task.task for task in STUDY.reported]
ABSENT = {
    "scores": "not scored yet",
    "import": "not in the published table",
    "harness": "no result in the folder",
}

if STUDY.config["cells"] == "import":

    rule import_cells:
        input:
            published=lambda w: dataset_of(STUDY.tasks[0]),
        output:
            cells="results/{scope}cells.tsv",
            item_values=expand(
                "resources/{{scope}}item_values/{task}.parquet", task=REPORTED
            ),
        log:
            "logs/{scope}import_cells.log",
        conda:
            "../envs/stats.yaml"
        params:
            checkpoints=checkpoint_rows(STUDY.checkpoints),
            modules=modules_digest(
                ["cells.py", "item_values.py", "outcomes.py", "published.py", "tsv.py"]
            ),
        script:
            "../scripts/import_cells.py"

elif STUDY.config["cells"] == "harness":

    rule import_harness:
        input:
            results=lambda w: harness_files(),
        output:
            cells="results/{scope}cells.tsv",
            item_values=expand(
                "resources/{{scope}}item_values/{task}.parquet", task=REPORTED
            ),
        log:
            "logs/{scope}import_harness.log",
        conda:
            "../envs/stats.yaml"
        params:
            harness=config["harness"],
            checkpoints=checkpoint_rows(STUDY.checkpoints),
            tasks=REPORTED,
            modules=modules_digest(
                [
                    *("cells.py", "harness_cells.py", "harness_checks.py"),
                    *("harness_files.py", "harness_items.py", "harness_metrics.py"),
                    *("harness_models.py", "harness_samples.py", "item_values.py"),
                    *("metrics.py", "tsv.py"),
                ]
            ),
        script:
            "../scripts/import_harness.py"

else:

    rule score_cells:
        input:
            scores=expand("results/scores/{ckpt}/{{task}}.parquet", ckpt=CKPTS),
            item_table="resources/items/{task}.parquet",
            plans=lambda w: sorted({plan_of(w.task, ckpt) for ckpt in CKPTS}),
            fingerprints=[
                manifest_of(ckpt) for ckpt in CKPTS if not STUDY.by_ckpt[ckpt].is_hub
            ],
        output:
            cells="resources/cells/{task}.tsv",
            item_values="resources/item_values/{task}.parquet",
            versions="resources/versions/{task}.tsv",
        log:
            "logs/cells/{task}.log",
        conda:
            "../envs/stats.yaml"
        params:
            checkpoints=checkpoint_rows(STUDY.usable),
            locked=lambda w: {ckpt: locked(ckpt) for ckpt in CKPTS},
            protocols=lambda w: STUDY.by_task[w.task].protocols,
            dtype=config["dtype"],
            scoring=modules_digest(SCORING_MODULES),
            modules=CELL_MODULES,
            stored=None,
        script:
            "../scripts/score_cells.py"

    # What the store holds, finished or not: no score file is an input, so that nothing is scored.
    use rule score_cells as partial_score_cells with:
        input:
            item_table="resources/items/{task}.parquet",
            plans=lambda w: sorted({plan_of(w.task, ckpt) for ckpt in CKPTS}),
        output:
            cells="resources/partial/cells/{task}.tsv",
            item_values="resources/partial/item_values/{task}.parquet",
            versions="resources/partial/versions/{task}.tsv",
        log:
            "logs/partial/cells/{task}.log",
        params:
            checkpoints=checkpoint_rows(STUDY.usable),
            locked=lambda w: {ckpt: locked(ckpt) for ckpt in CKPTS},
            protocols=lambda w: STUDY.by_task[w.task].protocols,
            dtype=config["dtype"],
            scoring=modules_digest(SCORING_MODULES),
            modules=CELL_MODULES,
            stored=lambda w: sorted(
                map(str, Path("resources/scored").glob(f"*/{w.task}.*.parquet"))
            ),

    rule cells:
        input:
            expand("resources/{{scope}}cells/{task}.tsv", task=REPORTED),
        output:
            "results/{scope}cells.tsv",
        log:
            "logs/{scope}cells.log",
        localrule: True
        conda:
            "../envs/stats.yaml"
        params:
            tasks={task.task: task.protocols for task in STUDY.reported},
            modules=CELL_MODULES,
        script:
            "../scripts/join_cells.py"


rule coverage:
    input:
        cells="results/{scope}cells.tsv",
    output:
        coverage="results/{scope}coverage.tsv",
        metrics="results/{scope}metrics.tsv",
    log:
        "logs/{scope}coverage.log",
    localrule: True
    conda:
        "../envs/stats.yaml"
    params:
        checkpoints=checkpoint_rows(STUDY.checkpoints),
        tasks=[
            {"task": row.task, "report": "yes" if row.report else "no"}
            for row in STUDY.tasks
        ],
        failures=lambda w: failure_reasons(
            Path("resources"),
            StudyStatus(STUDY).identity,
            {row.ckpt for row in STUDY.usable if row.is_hub},
        ),
        absent=ABSENT[STUDY.config["cells"]],
        metrics=config.get("harness", {}).get("metrics", {}),
        modules=modules_digest(
            ["coverage.py", "harness_metrics.py", "metrics.py", "tsv.py"]
        ),
    script:
        "../scripts/write_coverage.py"
