# Cells --> effects, shapes, the runs' own trends, and what may be said: CPU, minutes.
# Item values are resampled once per task; everything about items rests on these replicates.

DECLARED = {name: list(map(str, tests)) for name, tests in STUDY.tested.items()}
TITLES = {task: STUDY.by_task[task].title for task in TASKS}
FITS = [
    "correction.py",
    "families.py",
    "metrics.py",
    "outcomes.py",
    "panel.py",
    "tsv.py",
]


rule bootstrap_items:
    input:
        item_values="resources/{scope}item_values/{task}.parquet",
    output:
        "resources/{scope}bootstrap/{task}.parquet",
    log:
        "logs/{scope}bootstrap/{task}.log",
    conda:
        "../envs/stats.yaml"
    params:
        modules=modules_digest(["item_bootstrap.py", "item_values.py", "outcomes.py"]),
    script:
        "../scripts/bootstrap_items.py"


rule fit_effects:
    input:
        cells="results/{scope}cells.tsv",
        bootstrap=expand("resources/{{scope}}bootstrap/{task}.parquet", task=REPORTED),
    output:
        "results/{scope}stats/effects.tsv",
    log:
        "logs/{scope}fit_effects.log",
    conda:
        "../envs/stats.yaml"
    params:
        families=DECLARED,
        checkpoints=checkpoint_rows(STUDY.checkpoints),
        modules=modules_digest(
            [
                *FITS,
                *("effects.py", "item_bootstrap.py", "item_values.py"),
                *("regression.py", "robust.py", "wild.py"),
            ]
        ),
    script:
        "../scripts/fit_effects.py"


rule fit_shapes:
    input:
        cells="results/{scope}cells.tsv",
    output:
        "results/{scope}stats/trends.tsv",
    log:
        "logs/{scope}fit_shapes.log",
    conda:
        "../envs/stats.yaml"
    params:
        families=DECLARED,
        level=config["level"],
        better=STUDY.better,
        modules=modules_digest([*FITS, "robust.py", "shapes.py", "two_lines.py"]),
    script:
        "../scripts/fit_shapes.py"


rule fit_run_trends:
    input:
        cells="results/{scope}cells.tsv",
        bootstrap=expand("resources/{{scope}}bootstrap/{task}.parquet", task=REPORTED),
    output:
        "results/{scope}stats/run_trends.tsv",
    log:
        "logs/{scope}fit_run_trends.log",
    conda:
        "../envs/stats.yaml"
    params:
        families=DECLARED,
        modules=modules_digest(
            [*FITS, "item_bootstrap.py", "item_values.py", "run_trends.py"]
        ),
    script:
        "../scripts/fit_run_trends.py"


rule write_verdicts:
    input:
        effects="results/{scope}stats/effects.tsv",
        trends="results/{scope}stats/trends.tsv",
        run_trends="results/{scope}stats/run_trends.tsv",
    output:
        tsv="results/{scope}stats/verdicts.tsv",
        md="results/{scope}stats/verdicts.md",
    log:
        "logs/{scope}write_verdicts.log",
    localrule: True
    conda:
        "../envs/stats.yaml"
    params:
        families=DECLARED,
        titles=TITLES,
        causes={task.task: task.cause for task in STUDY.reported},
        better=STUDY.better,
        robust=STUDY.robust,
        level=config["level"],
        title=config["title"],
        checkpoints=checkpoint_rows(STUDY.usable),
        modules=modules_digest(
            [
                *("../../config/calibration.tsv", "calibration.py", "correction.py"),
                *(
                    "figure_style.py",
                    "outcomes.py",
                    "panel.py",
                    "robust.py",
                    "wild.py",
                ),
                *("run_trends.py", "tsv.py", "verdict_page.py", "verdict_words.py"),
                "verdicts.py",
            ]
        ),
    script:
        "../scripts/write_verdicts.py"


rule write_table1:
    input:
        effects="results/{scope}stats/effects.tsv",
        versions=(
            expand(
                "resources/{{scope}}versions/{task}.tsv",
                task=sorted({outcome.task for outcome in STUDY.primary}),
            )
            if STUDY.config["cells"] == "scores"
            else []
        ),
    output:
        tsv="results/{scope}stats/table1.tsv",
        md="results/{scope}stats/table1.md",
        tex="results/{scope}stats/table1.tex",
    log:
        "logs/{scope}write_table1.log",
    localrule: True
    conda:
        "../envs/stats.yaml"
    params:
        titles=TITLES,
        outcomes=[str(outcome) for outcome in STUDY.primary],
        level=config["level"],
        title=config["title"],
        notes=arithmetic_notes(),
        modules=modules_digest(["table1.py", "outcomes.py", "panel.py", "tsv.py"]),
    script:
        "../scripts/write_table1.py"
