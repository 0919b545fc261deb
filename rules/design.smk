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
                *("calibration.py", "correction.py", "panel.py", "panel_tests.py"),
                *("regression.py", "rejection_rates.py", "robust.py", "simulation.py"),
                *("tsv.py", "wild.py"),
            ]
        ),
    script:
        "../scripts/calibrate.py"
