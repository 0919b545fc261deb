# Cells + item values --> what each checkpoint lost since earlier ones of its own run.
# `snakemake drift` is the gate for a team in training: it fails when a newest checkpoint has lost
# more than the config allows. It is no part of `all`: a study of losses is meant to find some.


rule measure_drift:
    input:
        cells="results/{scope}cells.tsv",
        item_values=expand(
            "resources/{{scope}}item_values/{task}.parquet", task=REPORTED
        ),
    output:
        drift="results/{scope}stats/drift.tsv",
        flipped="results/{scope}stats/flipped.tsv",
    log:
        "logs/{scope}measure_drift.log",
    conda:
        "../envs/stats.yaml"
    params:
        families=DECLARED,
        level=config["level"],
        better=STUDY.better,
        modules=modules_digest(
            [
                *("correction.py", "drift.py", "item_values.py", "metrics.py"),
                *("outcomes.py", "paired.py", "panel.py", "tsv.py"),
            ]
        ),
    script:
        "../scripts/measure_drift.py"


rule check_drift:
    input:
        drift="results/{scope}stats/drift.tsv",
        flipped="results/{scope}stats/flipped.tsv",
    output:
        "results/{scope}stats/drift_check.txt",
    log:
        "logs/{scope}check_drift.log",
    conda:
        "../envs/stats.yaml"
    params:
        allowed_loss=allowed_loss,
        level=config["level"],
        better=STUDY.better,
        checkpoints=checkpoint_rows(STUDY.usable),
        modules=modules_digest(
            [
                *("correction.py", "drift.py", "drift_gate.py", "metrics.py"),
                *("outcomes.py", "paired.py", "panel.py", "tsv.py"),
                "verdict_words.py",
            ]
        ),
    script:
        "../scripts/check_drift.py"


rule drift:
    input:
        "results/stats/drift_check.txt",
        unpublished,
    localrule: True
