# Scores --> the files that lm-evaluation-harness writes, for tools that read those: results and
# samples of each checkpoint in results/harness/{ckpt}/. On demand: `snakemake export_harness`.


rule write_harness_files:
    input:
        scores=expand("results/scores/{{ckpt}}/{task}.parquet", task=REPORTED),
        item_tables=expand("resources/items/{task}.parquet", task=REPORTED),
    output:
        directory("results/harness/{ckpt}"),
    log:
        "logs/export_harness/{ckpt}.log",
    conda:
        "../envs/stats.yaml"
    params:
        checkpoint=lambda w: checkpoint_rows([STUDY.by_ckpt[w.ckpt]])[0],
        protocols={task.task: list(task.protocols) for task in STUDY.reported},
        dtype=config.get("dtype"),
        modules=modules_digest(
            [
                *("cells.py", "harness_export.py", "harness_metrics.py", "layout.py"),
                *("metrics.py", "protocols.py"),
            ]
        ),
    script:
        "../scripts/export_harness.py"


rule export_harness:
    input:
        exported,
    localrule: True
