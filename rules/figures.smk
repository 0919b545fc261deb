# Tables --> figures, each as pdf, svg and png.

SHOWN = {
    "tasks": [
        {
            "task": task,
            "title": STUDY.by_task[task].title,
            "chance": dict(STUDY.by_task[task].chance),
        }
        for task in TASKS
    ],
    "outcomes": [str(outcome) for outcome in STUDY.primary],
    "title": config["title"],
}
DRAWING = ["figure_page.py", "figure_style.py", "outcomes.py", "panel.py", "tsv.py"]
MARKING = [*DRAWING, "figure_marks.py", "figure_names.py", "verdict_words.py"]


rule plot_accuracy:
    input:
        cells="results/{scope}cells.tsv",
    output:
        pdf="results/{scope}figures/accuracy.pdf",
        svg="results/{scope}figures/accuracy.svg",
        png="results/{scope}figures/accuracy.png",
    log:
        "logs/{scope}plot_accuracy.log",
    conda:
        "../envs/stats.yaml"
    params:
        **SHOWN,
        checkpoints=checkpoint_rows(STUDY.checkpoints),
        expected=len(STUDY.checkpoints),
        modules=modules_digest([*DRAWING, "figures.py", "figure_coverage.py"]),
    script:
        "../scripts/plot_accuracy.py"


rule plot_forest:
    input:
        effects="results/{scope}stats/effects.tsv",
    output:
        pdf="results/{scope}figures/forest.pdf",
        svg="results/{scope}figures/forest.svg",
        png="results/{scope}figures/forest.png",
    log:
        "logs/{scope}plot_forest.log",
    conda:
        "../envs/stats.yaml"
    params:
        **SHOWN,
        better=STUDY.better,
        robust=STUDY.robust,
        level=config["level"],
        modules=modules_digest([*MARKING, "figure_forest.py", "figure_forest_words.py"]),
    script:
        "../scripts/plot_forest.py"


rule plot_heatmap:
    input:
        cells="results/{scope}cells.tsv",
    output:
        pdf="results/{scope}figures/heatmap.pdf",
        svg="results/{scope}figures/heatmap.svg",
        png="results/{scope}figures/heatmap.png",
    log:
        "logs/{scope}plot_heatmap.log",
    conda:
        "../envs/stats.yaml"
    params:
        **SHOWN,
        better=STUDY.better,
        checkpoints=checkpoint_rows(STUDY.checkpoints),
        expected=len(STUDY.checkpoints),
        modules=modules_digest(
            [*MARKING, "figure_coverage.py", "figure_heatmap.py", "figure_matrix.py"]
        ),
    script:
        "../scripts/plot_heatmap.py"


rule plot_shapes:
    input:
        trends="results/{scope}stats/trends.tsv",
        cells="results/{scope}cells.tsv",
    output:
        pdf="results/{scope}figures/shapes.pdf",
        svg="results/{scope}figures/shapes.svg",
        png="results/{scope}figures/shapes.png",
    log:
        "logs/{scope}plot_shapes.log",
    conda:
        "../envs/stats.yaml"
    params:
        **SHOWN,
        better=STUDY.better,
        axis="flops",
        modules=modules_digest([*MARKING, "figure_shapes.py"]),
    script:
        "../scripts/plot_shapes.py"


rule plot_slopes:
    input:
        run_trends="results/{scope}stats/run_trends.tsv",
    output:
        pdf="results/{scope}figures/slopes.pdf",
        svg="results/{scope}figures/slopes.svg",
        png="results/{scope}figures/slopes.png",
    log:
        "logs/{scope}plot_slopes.log",
    conda:
        "../envs/stats.yaml"
    params:
        **SHOWN,
        better=STUDY.better,
        level=config["level"],
        modules=modules_digest(
            [*MARKING, "correction.py", "figure_slopes.py", "run_trends.py"]
        ),
    script:
        "../scripts/plot_slopes.py"


rule plot_drift:
    input:
        drift="results/{scope}stats/drift.tsv",
    output:
        pdf="results/{scope}figures/drift.pdf",
        svg="results/{scope}figures/drift.svg",
        png="results/{scope}figures/drift.png",
    log:
        "logs/{scope}plot_drift.log",
    conda:
        "../envs/stats.yaml"
    params:
        **SHOWN,
        better=STUDY.better,
        level=config["level"],
        modules=modules_digest(
            [
                *MARKING,
                *("correction.py", "drift.py", "metrics.py", "paired.py"),
                *("figure_drift.py", "figure_drift_band.py"),
                *("figure_drift_words.py", "figure_matrix.py"),
            ]
        ),
    script:
        "../scripts/plot_drift.py"
