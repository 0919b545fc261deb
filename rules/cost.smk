# What the study costs before anything starts: GPU hours, download, disk. `snakemake --cores 1 cost`
# prints it and writes results/cost.md and cost.tsv. It runs whenever it is asked for, since the
# answer changes with what has been fetched and scored, and it needs neither lock nor network:
# plans that can be made from what is on this disk are made, the rest goes by bytes.


rule cost:
    input:
        plans_to_count,
    log:
        "logs/cost.log",
    localrule: True
    conda:
        "../envs/stats.yaml"
    params:
        lock=str(LOCK.path),
        costs="config/costs.tsv",
        table="results/cost.tsv",
        page="results/cost.md",
    script:
        "../scripts/estimate_cost.py"


# All plans of the study, without weights or GPU: what `cost` counts exactly.
rule plans:
    input:
        lambda w: sorted({plan_of(task, ckpt) for task in TASKS for ckpt in CKPTS}),
    localrule: True
