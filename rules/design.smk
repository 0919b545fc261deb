# Questions to ask of a study's design before it is scored: how far its statistics can be trusted,
# and which checkpoints to take when not all can be paid for. Made on demand, from its tables alone.


rule calibrate:
    output:
        tsv="results/design/calibration.tsv",
        md="results/design/calibration.md",
    log:
        "logs/calibrate.log",
    conda:
        "../envs/stats.yaml"
    params:
        checkpoints=checkpoint_rows(STUDY.usable),
        modules=modules_digest(
            [
                *("calibration.py", "panel.py", "panel_tests.py", "regression.py"),
                *("rejection_rates.py", "robust.py", "simulation.py", "tsv.py"),
                "wild.py",
            ]
        ),
    script:
        "../scripts/calibrate.py"


rule choose_checkpoints:
    input:
        costs=branch(exists("config/costs.tsv"), then="config/costs.tsv", otherwise=[]),
    output:
        checkpoints="results/design/checkpoints.tsv",
        precision="results/design/precision.tsv",
        page="results/design/choice.md",
    log:
        "logs/choose_checkpoints.log",
    conda:
        "../envs/stats.yaml"
    params:
        checkpoints=checkpoint_rows(STUDY.checkpoints),
        budget=budget,
        locked_bytes=LOCK.sizes(),
        modules=modules_digest(
            [
                *("budget.py", "budget_fill.py", "budget_page.py", "budget_table.py"),
                *("checkpoint_costs.py", "figure_style.py", "panel.py"),
                *("precision.py", "run_sets.py", "tables.py", "tsv.py"),
            ]
        ),
    script:
        "../scripts/choose_checkpoints.py"
