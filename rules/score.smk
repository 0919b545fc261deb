# Weights + plans --> log-likelihoods per choice: the only rule that wants a GPU.
# One job per checkpoint, one model load, one file per task. What was scored lives on in
# resources/scored/, which is no declared output, so a failed or repeated job costs only what
# is missing there. How much of a machine a job asks for follows from its model (the table in
# scripts/downslope/scoring_resources.py) and grows with the attempt; `machine` in the profile says
# what a GPU holds, and `set-resources` overrules any of it.

from downslope.scoring_resources import ScoringResources

ASKED = ScoringResources(STUDY, bytes_on_disk)


rule score:
    input:
        manifest=lambda w: manifest_of(w.ckpt),
        plans=lambda w: plan_list_of(w.ckpt),
    output:
        expand("results/scores/{{ckpt}}/{task}.parquet", task=TASKS),
    log:
        "logs/score/{ckpt}.log",
    benchmark:
        "benchmarks/score/{ckpt}.jsonl"
    conda:
        "../envs/score.yaml"
    threads: 1
    resources:
        gpu=lambda w: ASKED.gpus(w.ckpt),
        mem_mb=lambda w, attempt: ASKED.memory_mb(w.ckpt) * attempt,
        runtime=lambda w, attempt: ASKED.minutes(w.ckpt) * attempt,
    params:
        tasks=TASKS,
        folder=lambda w: weights_folder(w.ckpt),
        store=lambda w: f"resources/scored/{w.ckpt}",
        locked=lambda w: locked(w.ckpt),
        dtype=config.get("dtype"),
        modules=modules_digest(SCORING_MODULES),
    script:
        "../scripts/score_checkpoint.py"
