# Data sets --> items --> plans.
# Input: the register config/datasets.tsv, the tokenizers of config.yaml. Output: a canonical
# item table per task, and a plan per tokenizer and task. CPU only; network only for downloads.


rule download_dataset:
    input:
        lambda w: own_source(w.dataset),
    output:
        "resources/datasets/{dataset}/{file}",
    log:
        "logs/datasets/{dataset}/{file}.log",
    retries: 2
    localrule: True
    conda:
        "../envs/score.yaml"
    params:
        # The content alone: another address or mirror is no reason to fetch the same bytes again.
        sha256=lambda w: STUDY.datasets[w.dataset]["sha256"],
    script:
        "../scripts/download_dataset.py"


rule make_items:
    input:
        dataset_of,
    output:
        "resources/items/{task}.parquet",
    log:
        "logs/items/{task}.log",
    conda:
        "../envs/score.yaml"
    params:
        form=lambda w: STUDY.datasets[STUDY.by_task[w.task].dataset]["format"],
        expected=lambda w: STUDY.datasets[STUDY.by_task[w.task].dataset]["items"],
        sha256=lambda w: STUDY.datasets[STUDY.by_task[w.task].dataset]["sha256"],
        protocols=lambda w: STUDY.by_task[w.task].protocols,
        modules=modules_digest(["items.py", "protocols.py", "truthfulqa_preset.py"]),
    script:
        "../scripts/make_items.py"


rule fetch_tokenizer:
    input:
        lambda w: (
            []
            if tokenizer_source(w.tokenizer).startswith("hub:")
            else f"{tokenizer_source(w.tokenizer)}/tokenizer.json"
        ),
    output:
        manifest="resources/tokenizers/{tokenizer}/fetched.tsv",
    log:
        "logs/tokenizers/{tokenizer}.log",
    retries: 2
    localrule: True
    conda:
        "../envs/score.yaml"
    params:
        source=lambda w: tokenizer_source(w.tokenizer),
        lock=str(LOCK.path),
        locked=lambda w: locked(f"tokenizer:{w.tokenizer}"),
    script:
        "../scripts/fetch_tokenizer.py"


rule make_plan:
    input:
        item_table="resources/items/{task}.parquet",
        tokenizer="resources/tokenizers/{tokenizer}/fetched.tsv",
    output:
        "resources/plans/{tokenizer}/{task}.safetensors",
    log:
        "logs/plans/{tokenizer}/{task}.log",
    benchmark:
        "benchmarks/plans/{tokenizer}/{task}.jsonl"
    conda:
        "../envs/score.yaml"
    params:
        protocols=lambda w: STUDY.by_task[w.task].protocols,
        max_length=lambda w: STUDY.config["tokenizers"][w.tokenizer]["max_length"],
        pack_tokens=config.get("pack_tokens"),
        modules=modules_digest(
            [
                "pack_boundaries.py",
                "packing.py",
                "plan.py",
                "protocols.py",
                "tokenization.py",
            ]
        ),
    script:
        "../scripts/make_plan.py"


# What scoring depends on: with every plan as an input of every checkpoint, a thousand of them
# would make a DAG that takes Snakemake half a minute to look through.
rule list_plans:
    input:
        lambda w: [
            f"resources/plans/{w.tokenizer}/{task}.safetensors" for task in TASKS
        ],
    output:
        "resources/plans/{tokenizer}.tsv",
    log:
        "logs/plans/{tokenizer}.log",
    localrule: True
    conda:
        "../envs/stats.yaml"
    script:
        "../scripts/list_plans.py"
